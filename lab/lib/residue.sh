# shellcheck shell=bash
# What a lab could leave behind, looked for independently of how `down` works.

# residue: print one line for each thing that is left; fail if there is any
residue() {
	local found=0 line
	while read -r line; do [ -z "$line" ] || { echo "$line"; found=1; }; done < <(
		group_pids | sed 's/^/process in a group of the lab: /'
		# by what they execute or were started as
		local p c
		for p in /proc/[0-9]*; do
			c=$(tr '\0' ' ' 2>/dev/null < "$p/cmdline") || continue
			case $c in *"$RUN/"*|*"$SELF _machine "*) [ "${p#/proc/}" = "$$" ] || echo "process: ${p#/proc/} $c" ;; esac
			# a machine is the only place where this is the host name file's root
			case $(readlink "$p/cwd" 2>/dev/null) in "$RUN"|"$RUN"/*) echo "process inside the run directory: ${p#/proc/} $c" ;; esac
			grep -qsF " $RUN" "$p/mountinfo" && echo "mount namespace of process ${p#/proc/} has the run directory mounted: $c"
		done | sort -u
		grep -F "$RUN" /proc/self/mountinfo | sed 's/^/mount: /'
		groups | sed 's/^/control group: /'
		ip -o addr show | grep -E " inet ($NET|$FAR|$POD)\." | sed 's/^/interface: /'
		ip -o route show table all | grep -E "^($NET|$FAR|$POD)\." | sed 's/^/route: /'
		ip netns list 2>/dev/null | grep -F fairlead-lab | sed 's/^/network namespace: /'
		[ ! -e "$RUN" ] || echo "run directory: $RUN"
	)
	[ $found = 0 ] || return 1
	say "nothing of the lab is left"
}
