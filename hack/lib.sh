# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: where things are, and a few words.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
# A folder named relative to where the caller stood would be another one after the next cd.
[[ $target == /* ]] || target=$PWD/$target
tools=$target/tools
dist=$target/dist
export CARGO_TARGET_DIR=$target CARGO_NET_RETRY=${CARGO_NET_RETRY:-10} CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
# cron, containers and CI start programs without HOME; cargo, go and apt's hooks want one.
export HOME=${HOME:-/root}
export PATH=$PATH:$HOME/.cargo/bin:/usr/local/cargo/bin:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

have() {
	command -v "$1" >/dev/null 2>&1
}

is_root() {
	[ "$(id -u)" -eq 0 ]
}

# Runs a command that talks to the network, up to four times.
retry() {
	local wait
	for wait in 2 8 20 0; do
		"$@" && return
		[ "$wait" -eq 0 ] || sleep "$wait"
	done
	return 1
}

# Builds the tests' harness, and its programs into target/debug. The features of what is built add up over the packages that are
# asked for, so it is always the whole workspace: for strata-e2e alone most of its dependencies would be built a second time.
build_harness() {
	cargo test --quiet --locked --workspace --test e2e --no-run
}
