# shellcheck shell=bash
# A machine is a set of namespaces (pid, mount, net, uts, ipc, cgroup) held by
# one process. When that process ends, the kernel removes the machine with all
# that it started: processes, containers, mounts, interfaces.

# spawn MACHINE: start its holder
spawn() {
	local name=$1 d=$RUN/$1
	mkdir -p "$d"
	make_cgroups "$name"
	(
		enter_cgroups "$name"
		close_others
		exec env -i PATH="$PATH" HOME="${HOME:-/root}" LANG=C.UTF-8 FAIRLEAD_CACHE="${CACHE%/lab}" FAIRLEAD_LAB_RUN="$RUN" \
			setsid unshare --fork --kill-child --pid --mount --net --uts --ipc --cgroup --propagation private --mount-proc \
			"$SELF" _machine "$name" </dev/null >"$d/init.log" 2>&1
	) &
	echo $! > "$d/pid"
	disown
}

# alive MACHINE: whether its holder runs (and is ours, not a later process of that number)
alive() {
	local p; p=$(cat "$RUN/$1/pid" 2>/dev/null) || return 1
	[[ $({ tr '\0' ' ' < "/proc/$p/cmdline"; } 2>/dev/null) = *" _machine $1 "* ]] && grep -qsF "$GROUP/" "/proc/$p/cgroup"
}

# init_pid MACHINE: the number, seen from here, of its first process
init_pid() {
	local p; p=$(cat "$RUN/$1/pid" 2>/dev/null) && p=$(cat "/proc/$p/task/$p/children" 2>/dev/null) && [ -n "$p" ] && echo "${p%% *}"
}

# on MACHINE COMMAND...: run in its namespaces and in its control groups.
# (setns enters a cgroup namespace but moves no process, so a program on the
# machine's cgroup2 would not see it.)
on() {
	local name=$1 p; shift
	p=$(init_pid "$name") || die "Machine $name is not running." "Its first process is gone." "Run: $SELF up"
	( enter_cgroups "$name"; close_others; exec nsenter -t "$p" -m -u -i -n -p -C -w -- "$@" )
}

# service NAME COMMAND...: inside a machine, keep a command running
service() {
	local n=$1; shift
	( while :; do "$@" >>"$D/$n.log" 2>&1 || true; echo "--- $n ended; again in 1 s" >>"$D/$n.log"; sleep 1; done ) &
}

# machine NAME: what its first process does
machine() {
	local name=$1 d k v
	D=$RUN/$1
	read_settings
	hostname "$name"
	mount -t sysfs sysfs /sys
	mount_cgroups
	mount -t bpf bpf /sys/fs/bpf
	mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || true
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
	mount -t tmpfs -o mode=755 tmpfs /run
	# A machine writes to its own /etc, /opt and /var.
	for d in etc opt var; do
		mkdir -p "$D/overlay/$d" "$D/overlay/.$d"
		mount -t overlay -o "lowerdir=/$d,upperdir=$D/overlay/$d,workdir=$D/overlay/.$d" overlay "/$d"
	done
	mkdir -p /run/lock /run/sshd
	names
	# What the kubelet insists on and would otherwise change for the whole machine.
	mkdir -p /run/sysctl
	for k in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
		v=${k#*=}; k=${k%=*}
		[ -e "/proc/sys/$k" ] || continue
		echo "$v" > "/run/sysctl/${k//\//.}"; mount --bind "/run/sysctl/${k//\//.}" "/proc/sys/$k"
	done
	# So that a privileged pod can mount file systems that others see.
	mount --make-rshared /
	ip link set lo up
	sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.forwarding=1 || true
	# Nobody else has its addresses, and waiting a second to be sure is long here.
	sysctl -qw net.ipv6.conf.default.accept_dad=0 || true
	case $name in
	router) router ;;
	outside) outside ;;
	cp) ssh_server; control_plane ;;
	*) ssh_server; node "${name#node}" ;;
	esac
	touch "$D/started"
	while :; do wait || true; sleep 1; done
}

# names: who is who, and no name server of the real world
names() {
	local m
	rm -f /etc/resolv.conf
	printf 'nameserver %s\noptions timeout:2 attempts:1\n' "$FAR.10" > /etc/resolv.conf
	{ echo "127.0.0.1 localhost"; for m in $(machines); do echo "$(address "$m") $m"; done; } > /etc/hosts
	# A locked account cannot log in by key either when there is no PAM.
	sed -i 's/^root:!*:/root:*:/' /etc/shadow
}

ssh_server() {
	cat > "$D/sshd_config" <<-T
	Port 22
	HostKey $RUN/ssh/host_$(hostname)
	AuthorizedKeysFile $RUN/ssh/id_ed25519.pub
	StrictModes no
	PermitRootLogin prohibit-password
	PasswordAuthentication no
	KbdInteractiveAuthentication no
	UsePAM no
	UseDNS no
	PrintMotd no
	PrintLastLog no
	AllowTcpForwarding yes
	AllowStreamLocalForwarding yes
	MaxStartups 200
	MaxSessions 200
	SetEnv PATH=$HYPERKUBE:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	Subsystem sftp internal-sftp
	PidFile none
	T
	service sshd "$(PATH=$PATH:/usr/sbin command -v sshd)" -D -e -f "$D/sshd_config"
}

# wait_link: the interface that `wire` puts in
wait_link() { until_ok 60 ip link show eth0 || die "Machine $(hostname) got no interface." "eth0 did not appear within 60 s." "Run: $SELF down, then up"; }

# wire: in the router's namespace, the bridge of the cluster network with a
# cable to each machine, and the cable to the outside
wire() {
	local m p
	{
		echo "link add br0 type bridge"
		echo "addr add $NET.1/24 dev br0"
		[ "$DUAL" = 0 ] || echo "addr add $NET6::1/64 dev br0 nodad"
		echo "link set br0 up"
		for m in $(machines); do
			[ "$m" != router ] || continue
			p=$(init_pid "$m")
			if [ "$m" = outside ]; then
				echo "link add outside type veth peer name eth0 netns $p"
				echo "addr add $FAR.1/24 dev outside"
				[ "$DUAL" = 0 ] || echo "addr add $FAR6::1/64 dev outside nodad"
			else
				echo "link add $m type veth peer name eth0 netns $p"
				echo "link set $m master br0"
			fi
			echo "link set $m up"
		done
	} | nsenter -t "$(init_pid router)" -n ip -batch - || die "The machines could not be connected." "ip could not make the bridge or the cables in the router (see above)." "Run: $SELF down, then up"
}
