# shellcheck shell=bash disable=SC2154 # top and cache are the caller's
# Sourced by hack/vm: fetches qemu, a kernel and the guest's packages from Debian and makes of them, below $cache,
#   host/      qemu and virtiofsd with their libraries and firmware: run from there, nothing is installed
#   vmlinux    the kernel
#   modules/   its modules
#   ROOT.img   the guest's root file system, one for each --init

suite=trixie
host_packages=(qemu-system-x86 virtiofsd zstd xz-utils kmod)
plain_packages=(
	base-files base-passwd bash bsdutils coreutils dash debianutils diffutils findutils grep gzip hostname libc-bin mawk sed
	tar util-linux mount kmod procps e2fsprogs netbase iproute2 iputils-ping nftables iptables apparmor
	busybox-static checkpolicy containernetworking-plugins docker-registry openssl
)

# What the guest with systemd has beside Debian's minimum. No udev: devtmpfs has the few devices.
systemd_packages=(
	systemd systemd-sysv dbus kmod procps iproute2 nftables apparmor busybox-static docker-registry
)

# unavailable REASON: this machine cannot have the guest, which is no failure of Strata's.
unavailable() {
	echo "$*"
	exit 77
}

# Becomes a program of $host, with its own libraries.
become_hosted() {
	local program=$1 lib=$host/usr/lib/x86_64-linux-gnu
	shift
	exec "$host/usr/lib64/ld-linux-x86-64.so.2" --library-path "$lib:$lib/systemd" --argv0 "${program##*/}" "$program" "$@"
}

hosted() {
	(become_hosted "$@")
}

# apt-get with lists, status and archives of its own below $work/apt: as if for an empty machine.
apt() {
	apt-get -qq -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt" \
		-o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
		-o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Keep-Downloaded-Packages=true \
		-o APT::Update::Post-Invoke= -o APT::Update::Post-Invoke-Success= -o Debug::NoLocking=true "$@"
}

apt_start() {
	local mirror
	mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/ | head -n 1 || true)
	[ -n "$mirror" ] || unavailable "no Debian mirror in /etc/apt: qemu and the guest come from there"
	mkdir -p "$work"/apt/{lists,archives}/partial
	: >"$work/apt/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror% } $suite main" >"$work/apt/sources.list"
	apt update >&2 || unavailable "Debian's $suite cannot be fetched, and nothing of it is cached"
}

# unpack DIRECTORY PACKAGE...: with all that they depend on, without running any of their scripts.
unpack() {
	local dir=$1 deb part
	shift
	echo "fetching for ${dir##*/}: $*" >&2
	apt install --download-only -y -o Dir::Cache::archives="$work/apt/${dir##*/}" "$@" >&2 ||
		unavailable "Debian's packages cannot be fetched"
	mkdir -p "$dir"/usr/{bin,sbin,lib,lib64}
	for part in bin sbin lib lib64; do ln -sfn "usr/$part" "$dir/$part"; done
	for deb in "$work/apt/${dir##*/}"/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -xp -C "$dir" --keep-directory-symlink --exclude='./usr/share/doc/*' \
			--exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./usr/share/info/*'
	done
}

make_host() {
	host=$work/host
	mkdir -p "$work/apt/host/partial"
	unpack "$host" "${host_packages[@]}"
	hosted "$host/usr/bin/qemu-system-x86_64" --version >&2 || unavailable "Debian's qemu does not run here"
}

# The kernel as an ELF file, which qemu starts without a boot loader, and modules that the guest need not decompress.
make_kernel() {
	local image version at
	image=$(apt --simulate install linux-image-cloud-amd64 | sed -n 's/^Inst \(linux-image-[0-9][^ ]*\) .*/\1/p')
	echo "fetching $image" >&2
	(cd "$work" && apt download "$image" >&2) || unavailable "Debian's kernel cannot be fetched"
	dpkg-deb -x "$work/$image"_*.deb "$work/kernel"
	version=$(basename "$work"/kernel/boot/vmlinuz-*)
	version=${version#vmlinuz-}
	image=$work/kernel/boot/vmlinuz-$version
	at=$(LC_ALL=C grep -aboP '\x28\xb5\x2f\xfd' "$image" | head -n 1 | cut -d: -f1)
	# What follows the compressed part makes zstd complain in the end.
	tail -c "+$((at + 1))" "$image" | hosted "$host/usr/bin/zstd" -dcq >"$work/vmlinux" 2>/dev/null || :
	[ "$(head -c 4 "$work/vmlinux")" = $'\x7fELF' ] || die "the kernel in $image is not compressed by zstd"
	mkdir -p "$work/modules/usr/lib/modules"
	mv "$work/kernel/usr/lib/modules/$version" "$work/modules/usr/lib/modules/"
	ln -s usr/lib "$work/modules/lib"
	find "$work/modules" -name '*.ko.xz' -print0 |
		xargs -0 -n 64 "$host/usr/lib64/ld-linux-x86-64.so.2" --library-path "$host/usr/lib/x86_64-linux-gnu" "$host/usr/bin/xz" -d
	hosted "$host/usr/sbin/depmod" -b "$work/modules" "$version"
}

# What Debian's scripts would have made, as far as it is needed.
settle() {
	local root=$1 name part
	mkdir -p "$root"/{proc,sys,dev,run,tmp,data,mnt,root,opt,srv,home,etc,var/{tmp,lib,log,cache},usr/local/lib/vm}
	chmod 1777 "$root/tmp" "$root/var/tmp"
	ln -sfn /run "$root/var/run"
	cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
	cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
	printf 'root:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"
	echo vm >"$root/etc/hostname"
	printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$root/etc/hosts"
	printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
	: >"$root/etc/resolv.conf"
	ln -sf /proc/self/mounts "$root/etc/mtab"
	for name in iptables ip6tables; do
		for part in '' -save -restore; do ln -sf xtables-nft-multi "$root/usr/sbin/$name$part"; done
	done
	ln -sf mawk "$root/usr/bin/awk"
	ln -sf which.debianutils "$root/usr/bin/which"
	cat >"$root/etc/fstab" <<-FSTAB
		sysfs    /sys                 sysfs       nosuid,nodev,noexec
		devpts   /dev/pts             devpts      nosuid,noexec,gid=5,mode=620,ptmxmode=666,X-mount.mkdir
		tmpfs    /dev/shm             tmpfs       nosuid,nodev,X-mount.mkdir
		mqueue   /dev/mqueue          mqueue      nosuid,nodev,noexec,X-mount.mkdir
		tmpfs    /run                 tmpfs       nosuid,nodev,mode=755
		cgroup2  /sys/fs/cgroup       cgroup2     nosuid,nodev,noexec,nsdelegate
		security /sys/kernel/security securityfs  nosuid,nodev,noexec
		bpf      /sys/fs/bpf          bpf         nosuid,nodev,noexec,mode=700
	FSTAB
	"$root/usr/sbin/ldconfig" -r "$root"
}

# A Debian that is installed, scripts and all, since systemd is much of it and dpkg must know what there is.
make_systemd() {
	local root=$1 mirror include unit
	have debootstrap || unavailable "debootstrap is lacking: hack/deps installs it"
	mirror=$(sed -n 's/^deb \[.*\] \([^ ]*\) .*/\1/p' "$work/apt/sources.list")
	include=$(printf ',%s' "${systemd_packages[@]}")
	echo "installing: ${systemd_packages[*]}" >&2
	debootstrap --variant=minbase --include="${include#,}" "$suite" "$root" "$mirror" >&2 ||
		unavailable "Debian's packages cannot be installed in a directory here"
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
	echo vm >"$root/etc/hostname"
	printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$root/etc/hosts"
	# Known, so that this is no first boot.
	echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
	cat >"$root/etc/systemd/system/vm.service" <<-'UNIT'
		# In the guest with systemd: the command of hack/vm, once the node is up, and then the end of the machine.
		[Unit]
		Description=The command of hack/vm
		After=multi-user.target
		DefaultDependencies=no

		[Service]
		Type=oneshot
		ExecStart=/usr/local/lib/vm/command
		# With -no-reboot this ends qemu at once.
		ExecStopPost=/bin/sh -c "umount /data 2>/dev/null; echo b >/proc/sysrq-trigger"
		StandardOutput=null
		StandardError=null
		TimeoutStartSec=infinity
		KillMode=process

		[Install]
		WantedBy=multi-user.target
	UNIT
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
	ln -s ../vm.service "$root/etc/systemd/system/multi-user.target.wants/vm.service"
	# Nobody logs in, and nothing is to be cleaned up in a machine that lives for minutes.
	for unit in getty.target apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \
		e2scrub_all.timer e2scrub_reap.service docker-registry.service systemd-pcrphase.service systemd-update-utmp.service; do
		ln -sf /dev/null "$root/etc/systemd/system/$unit"
	done
}

# make_root INIT: $work/INIT, a directory that becomes the guest's root; its PID 1 is /sbin/init, which in the end runs
# /usr/local/lib/vm/command and resets the machine.
make_root() {
	local root=$work/$1
	case $1 in
	plain)
		unpack "$root" "${plain_packages[@]}"
		settle "$root"
		install "$top/hack/vm.d/init" "$root/sbin/init"
		;;
	systemd) make_systemd "$root" ;;
	*) die "--init $1: there are plain and systemd" ;;
	esac
	install -D "$top/hack/vm.d/command" "$root/usr/local/lib/vm/command"
	mkdir -p "$root/usr/lib/modules"
	cp -a "$cache/modules/usr/lib/modules/." "$root/usr/lib/modules/"
	rm -f "$work/$1.img"
	truncate -s 8G "$work/$1.img"
	# Thrown away after each run, so without a journal.
	mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1,nodiscard -d "$root" "$work/$1.img"
}

# What the cache was made from: another text makes it anew.
recipe() {
	cat "$top/hack/vm.d/cache.sh" "$top/hack/vm.d/init" "$top/hack/vm.d/command" | sha256sum
}

# prepare INIT: makes what the cache lacks. Nothing half-made is ever seen: it is renamed into place.
prepare() {
	local part
	work=$cache/work host=$cache/host
	exec {lock}>"$cache/lock"
	flock "$lock"
	if [ "$(cat "$cache/recipe" 2>/dev/null)" != "$(recipe)" ]; then
		# Lacking packages of an older recipe, or of none.
		rm -rf "$cache"/{recipe,host,vmlinux,modules} "$cache"/*.img
	fi
	if [ ! -e "$cache/recipe" ] || [ ! -e "$cache/$1.img" ]; then
		is_root || unavailable "making the guest needs root: files of its image belong to several users"
		have apt-get || unavailable "apt-get is lacking: the guest is made of Debian's packages"
		have mkfs.ext4 || unavailable "mkfs.ext4 is lacking: hack/deps installs it"
		rm -rf "$work"
		mkdir -p "$work"
		trap 'rm -rf "$work"' EXIT
		apt_start
		if [ ! -e "$cache/recipe" ]; then
			make_host
			make_kernel
			for part in host vmlinux modules; do mv "$work/$part" "$cache/$part"; done
			host=$cache/host
			recipe >"$cache/recipe"
		fi
		make_root "$1"
		mv "$work/$1.img" "$cache/$1.img"
		rm -rf "$work"
		trap - EXIT
	fi
	exec {lock}>&-
}
