# shellcheck shell=bash
# Messages, waiting, locking.

say() { printf '%(%H:%M:%S)T lab: %s\n' -1 "$*" >&2; }

# die WHAT WHY FIX: end with an error that says what to do about it.
die() {
	printf 'lab: %s\n' "$1" >&2
	[ -z "${2:-}" ] || printf '  why: %s\n' "$2" >&2
	[ -z "${3:-}" ] || printf '  fix: %s\n' "$3" >&2
	exit 1
}

# until_ok SECONDS COMMAND...: repeat a command until it succeeds.
until_ok() {
	local end=$((SECONDS + $1)); shift
	until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

# milliseconds since START, a value of EPOCHREALTIME, as seconds with one digit
since() { local now=${EPOCHREALTIME/./}; local ms=$(((now - ${1/./}) / 1000)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }

need_root() {
	[ "$(id -u)" = 0 ] || die "The lab must run as root." "It makes namespaces, network interfaces and mounts." "Run: sudo $0 ..."
	[ "$(uname -s)" = Linux ] || die "The lab runs on Linux only." "Its machines are Linux namespaces." "Use a Linux machine, or connect to an existing cluster."
}

need_up() {
	[ -f "$RUN/complete" ] || die "The lab is not up." "There is no complete lab in $RUN." "Run: $SELF up"
}

# lock: one of up and down at a time. Descriptor 9 holds the lock and must not
# reach a process that outlives this one (9>&-).
lock() {
	mkdir -p "$(dirname "$RUN")"
	exec 9>"$RUN.lock"
	flock -n 9 || { say "another lab command is running; waiting for it"; flock -w 900 9 || die "Another lab command holds the lock." "$RUN.lock has been locked for 15 minutes." "See who holds it: fuser -v $RUN.lock"; }
}

# note WORDS: record who started or stopped a lab, beside the run directory
note() {
	printf '%(%F %T)T %s; pid %d, parent: %s\n' -1 "$*" $$ "$(tr '\0' ' ' 2>/dev/null < /proc/$PPID/cmdline | cut -c1-200)" >> "$RUN.history"
	tail -n 200 "$RUN.history" > "$RUN.history.new" && mv "$RUN.history.new" "$RUN.history"
}

# close_others: in a subshell that becomes a lasting process, close what it
# inherited beyond its standard streams: a lock of ours or of a caller (flock
# FILE lab up) would be held for as long as the lab runs.
close_others() {
	local f
	for f in "/proc/$BASHPID/fd"/*; do
		f=${f##*/}
		if [ "$f" -gt 2 ] && [ "$f" -ne 255 ]; then eval "exec $f>&-"; fi
	done
}

machines() { local n; echo router cp outside; for n in $(seq "$NODES"); do echo "node$n"; done; }

# address MACHINE: its address on its network
address() {
	case $1 in
	router) echo "$NET.1" ;;
	cp) echo "$NET.10" ;;
	outside) echo "$FAR.10" ;;
	node*) echo "$NET.$((10 + ${1#node}))" ;;
	esac
}

# address6 MACHINE: its address of IPv6, where the lab has it
address6() {
	case $1 in
	outside) echo "$FAR6::10" ;;
	*) local a; a=$(address "$1"); echo "$NET6::${a##*.}" ;;
	esac
}

# give6 MACHINE GATEWAY: its address of IPv6 and its way out, where the lab has it
give6() {
	[ "$DUAL" = 1 ] || return 0
	ip -6 addr add "$(address6 "$1")/64" dev eth0 nodad
	ip -6 route add default via "$2"
}

# read_settings: NODES, CNI, PROXY, PROXY_MODE and DUAL of the lab that runs (or ran)
read_settings() {
	NODES=3 CNI=fairlead PROXY=0 PROXY_MODE=iptables DUAL=0 MODE='' HYPERKUBE='' TEMPLATE=''
	# shellcheck source=/dev/null
	[ ! -f "$RUN/settings" ] || . "$RUN/settings"
}
