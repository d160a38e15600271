# shellcheck shell=bash
# Control groups: every machine has one of its own in each hierarchy, below
# .../$GROUP/. They are also the one sure record of which processes are the lab's.

# cgroup_mode: hybrid (version 1 with a version 2 tree at unified/) or v2
cgroup_mode() {
	local kind; kind=$(stat -fc %T /sys/fs/cgroup 2>/dev/null || true)
	if [ -n "${FAIRLEAD_LAB_CGROUP:-}" ]; then echo "$FAIRLEAD_LAB_CGROUP"
	elif [ "$kind" = cgroup2fs ]; then echo v2
	elif [ -f /sys/fs/cgroup/unified/cgroup.procs ]; then echo hybrid
	else die "This machine has no control groups of version 2." "Neither /sys/fs/cgroup nor /sys/fs/cgroup/unified is a cgroup2 mount; the agent's socket load balancing attaches there." "Boot a kernel with cgroup2 mounted (systemd's default), or: mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
	fi
}

# v2_base: on a machine with version 2 alone, the nearest group above this
# process that can hand controllers down (one with processes of its own cannot,
# but for the root)
v2_base() {
	local p c; p=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); p=${p%/}
	while :; do
		for c in cpu cpuset memory pids io hugetlb; do { echo "+$c" > "$p/cgroup.subtree_control"; } 2>/dev/null || true; done
		if grep -qw memory "$p/cgroup.subtree_control" 2>/dev/null || [ "$p" = /sys/fs/cgroup ]; then break; fi
		p=$(dirname "$p")
	done
	echo "$p"
}

# cgroup_dirs MACHINE: lines of "HIERARCHY DIRECTORY". On version 1 the directory
# is below the group that this process is in, so nothing leaves its accounting.
cgroup_dirs() {
	local id controllers path
	if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
		echo "unified $(v2_base)/$GROUP/$1"; return
	fi
	while IFS=: read -r id controllers path; do
		case $controllers in
		'') [ "$id" = 0 ] || continue; controllers=unified ;;
		name=systemd) controllers=systemd ;;
		name=*) continue ;;
		esac
		[ ! -d "/sys/fs/cgroup/$controllers" ] || echo "$controllers /sys/fs/cgroup/$controllers${path%/}/$GROUP/$1"
	done < /proc/self/cgroup
}

# make_cgroups MACHINE: make them and write the list to $RUN/MACHINE/cgroups
make_cgroups() {
	local c p x
	cgroup_dirs "$1" > "$RUN/$1/cgroups"
	while read -r c p; do
		mkdir -p "$p"
		case ,$c, in
		*,cpuset,*)
			for x in "${p%/*}" "$p"; do
				cat "${p%/"$GROUP"/*}/cpuset.mems" > "$x/cpuset.mems"
				cat "${p%/"$GROUP"/*}/cpuset.cpus" > "$x/cpuset.cpus"
			done ;;
		,unified,)
			if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
				for x in $(<"${p%/*}/cgroup.controllers"); do { echo "+$x" > "${p%/*}/cgroup.subtree_control"; } 2>/dev/null || true; done
			fi ;;
		esac
	done < "$RUN/$1/cgroups"
}

# enter_cgroups MACHINE: move this (sub)shell into a machine's groups. In a
# version 2 tree that hands controllers down only a leaf may hold processes.
enter_cgroups() {
	local c p
	while read -r c p; do
		if [ "$c" = unified ] && [ -d "$p/init" ]; then p=$p/init; fi
		echo "$BASHPID" > "$p/cgroup.procs"
	done < "$RUN/$1/cgroups"
}

# mount_cgroups: inside a machine; it sees its own groups as the roots
mount_cgroups() {
	local c p x
	if [ "$MODE" = v2 ]; then
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mkdir -p /sys/fs/cgroup/init
		for x in $(< /sys/fs/cgroup/cgroup.procs); do [ "$x" = 0 ] || echo "$x" > /sys/fs/cgroup/init/cgroup.procs || true; done
		for x in $(< /sys/fs/cgroup/cgroup.controllers); do { echo "+$x" > /sys/fs/cgroup/cgroup.subtree_control; } || true; done
		return
	fi
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	while read -r c p; do
		mkdir "/sys/fs/cgroup/$c"
		case $c in
		unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
		systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd ;;
		*)
			mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c"
			case $c in *,*) for x in ${c//,/ }; do ln -s "$c" "/sys/fs/cgroup/$x"; done ;; esac ;;
		esac
	done < "$D/cgroups"
}

# groups: the lab's groups in every hierarchy, wherever they were made
groups() { find /sys/fs/cgroup -type d -name "$GROUP" -prune 2>/dev/null || true; }

# group_pids: every process in them
group_pids() {
	local g
	groups | while read -r g; do find "$g" -name cgroup.procs -exec cat {} + 2>/dev/null || true; done | sort -un | grep -vx 0 || true
}

# kill_groups: end every process of the lab, then remove its groups
kill_groups() {
	local end=$((SECONDS + 20)) pids g
	while pids=$(group_pids); [ -n "$pids" ]; do
		# shellcheck disable=SC2086 # a list of process ids
		kill -9 $pids 2>/dev/null || true
		[ $SECONDS -lt $end ] || die "Processes of the lab do not end." "Still there: $(echo "$pids" | head -n 5 | tr '\n' ' ')" "Look at them with ps; a process in state D waits for the kernel."
		sleep 0.05
	done
	end=$((SECONDS + 15))
	while g=$(groups); [ -n "$g" ]; do
		while read -r g; do find "$g" -depth -type d -exec rmdir {} + 2>/dev/null || true; done <<<"$g"
		g=$(groups); [ -n "$g" ] || break
		[ $SECONDS -lt $end ] || die "Control groups of the lab cannot be removed." "$(head -n 1 <<<"$g")" "Run '$SELF down' again; if it stays, see which process is in it: cat $(head -n 1 <<<"$g")/cgroup.procs"
		sleep 0.1
	done
}
