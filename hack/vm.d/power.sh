# shellcheck shell=bash disable=SC2154 # from is the caller's
# Sourced in the guests of hack/power-cuts: a stratad whose data outlive the machine, and a few words.

registry=127.0.0.1:5000
# Where host-local keeps who has which address of the network pods.
addresses=/data/cni/addresses/pods
# Nothing runs from the share itself: virtiofsd fills pages behind qemu's back.
programs=/opt/strata-power
mkdir -p "$programs" && cp "$from"/dist/* "$from/tools/crictl" "$programs/" || exit
export PATH=$programs:$PATH
# Go programs that are interrupted by signals while they run go astray under emulation now and then.
export GODEBUG=asyncpreemptoff=1 CRI_CONFIG_FILE=/run/crictl.yaml
touch "$CRI_CONFIG_FILE"

fail() {
	echo "FAILED: $*"
	[ ! -e /run/stratad.log ] || tail -n 40 /run/stratad.log
	exit 1
}

# again COMMAND...: up to three times, for crictl's sake.
again() {
	"$@" || "$@" || "$@"
}

# until_none COMMAND...: waits until it says nothing, for half a minute. What it says then is in $left.
until_none() {
	local tries
	for ((tries = 0; tries < 300; tries++)); do
		left=$("$@")
		[ -n "$left" ] || return 0
		sleep 0.1
	done
	return 1
}

# Addresses that somebody has.
records() {
	find "$addresses" -name '10.*' 2>/dev/null
}

crictl() {
	"$programs/crictl" --runtime-endpoint unix:///run/strata/strata.sock --timeout 300s "$@"
}

# configure FIELDS PLUGINS: what more the plugin bridge has, and what comes behind it in the network list.
configure() {
	mkdir -p /data/cni/net.d /data/pods
	cat >/data/config.toml <<-END
		root = "/data/strata"
		[network]
		cni_conf_dir = "/data/cni/net.d"
		subnet = "10.89.0.0/28"
	END
	cat >/data/cni/net.d/pods.conflist <<-END
		{ "cniVersion": "1.0.0", "name": "pods", "plugins": [{ "type": "bridge", "bridge": "pods0", "isGateway": true,$1
		  "ipam": { "type": "host-local", "dataDir": "/data/cni/addresses", "ranges": [[{ "subnet": "10.90.0.0/28" }]] } }$2] }
	END
	sync
}

start() {
	local tries
	stratad --config /data/config.toml >>/run/stratad.log 2>&1 &
	for ((tries = 0; tries < 600; tries++)); do
		! strata version >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	fail "stratad does not answer"
}

# What a cut has left on the disk, before stratad starts. An image that was about to get its name, or had lost it, is no damage,
# nor is what had been pulled or committed in part: the start collects it.
fsck_offline() {
	local left
	[ -e /data/strata ] || return 0
	! stratad --config /data/config.toml fsck >/run/fsck.log 2>&1 || return 0
	if left=$(grep -v -e ': it is complete, but has no name;' -e '; nothing needs it: ' -e '; no image needs it: ' \
		-e ' WARN layer cannot be read ' -e '^checked ' /run/fsck.log); then fail "stratad fsck: $left"; fi
}

serve_images() {
	[ -e /data/registry ] || { cp -r "$from/registry" /data/registry && sync; }
	cat >/run/registry.yml <<-END
		version: 0.1
		log: { level: error, accesslog: { disabled: true } }
		storage: { filesystem: { rootdirectory: /data/registry } }
		http: { addr: $registry }
	END
	docker-registry serve /run/registry.yml >/run/registry.log 2>&1 &
}

# pod NAME [FIELDS]: runs one with a container, and leaves it; its configuration may have more.
pod() {
	local logs=/data/pods/$1
	mkdir -p "$logs"
	cat >"$logs/pod.json" <<-END
		{ "metadata": { "name": "$1", "uid": "$1-uid", "namespace": "power", "attempt": 0 }, "log_directory": "$logs", "linux": {}${2-} }
	END
	cat >"$logs/container.json" <<-END
		{ "metadata": { "name": "c" }, "image": { "image": "$registry/e2e/busybox:latest" }, "command": ["sleep", "1000"],
		  "log_path": "c.log", "linux": {} }
	END
	crictl run --no-pull "$logs/container.json" "$logs/pod.json"
}
