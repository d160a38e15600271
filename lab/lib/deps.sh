# shellcheck shell=bash
# What the lab needs of the system, and how it gets there.

# command (or file) and the Debian package that has it
DEPS="containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables nft:nftables
ip:iproute2 bridge:iproute2 sshd:openssh-server ssh:openssh-client tcpdump:tcpdump curl:curl ping:iputils-ping
ethtool:ethtool busybox:busybox-static conntrack:conntrack nsenter:util-linux setpriv:util-linux flock:util-linux
sysctl:procps mount:mount"

missing_deps() {
	local pair
	for pair in $DEPS; do
		PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
	done | sort -u
}

# install_deps: install what is missing, with no service started now (policy-rc.d)
# or at the next boot (systemctl disable).
install_deps() {
	local missing policy=/usr/sbin/policy-rc.d mark='# made by the lab for the time of an installation'
	missing=$(missing_deps)
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "Programs are missing: $(echo "$missing" | tr '\n' ' ')" "There is no apt-get to install them with." "Install these packages (Debian's names) with your system's package manager."
	say "installing $(echo "$missing" | tr '\n' ' ')"
	[ ! -f $policy ] || ! grep -qF "$mark" $policy || rm -f $policy
	if [ ! -e $policy ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > $policy; chmod 755 $policy
	fi
	local log=$CACHE/apt.log; mkdir -p "$CACHE"
	# shellcheck disable=SC2086 # a list of words
	apt_install $missing >"$log" 2>&1 || { apt-get update >>"$log" 2>&1 9>&- && apt_install $missing >>"$log" 2>&1; } ||
		die "Packages could not be installed: $(echo "$missing" | tr '\n' ' ')" "$(grep -m1 '^E:' "$log" || tail -n1 "$log")" "See $log, then run: apt-get install $(echo "$missing" | tr '\n' ' ')"
	local s
	if [ -d /run/systemd/system ]; then
		for s in containerd:containerd openssh-server:ssh; do
			! grep -qx "${s%%:*}" <<<"$missing" || systemctl disable "${s#*:}" >>"$log" 2>&1 9>&- || say "could not disable ${s#*:}; it will start at the next boot"
		done
	fi
	if [ -f $policy ] && grep -qF "$mark" $policy; then rm -f $policy; fi
	missing=$(missing_deps)
	[ -z "$missing" ] || die "Programs are still missing: $(echo "$missing" | tr '\n' ' ')" "The packages are installed but their programs were not found." "See $log"
}
apt_install() { DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "$@" 9>&-; }
