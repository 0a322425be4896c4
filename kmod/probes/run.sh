#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# run.sh <probe directory> <header to write> <compile command>
#
# Compiles every probe and writes one #define for each that compiles. The
# compiler's words are kept beside the header, in cowbird_config.log: an error
# that has nothing to do with the probed feature must be visible. Two controls
# guard against a compiler that accepts or refuses everything.
#
# Only a compiler that names an error at a line of source has answered no. One
# that was killed, crashed or found no room has answered nothing, and neither
# header nor module is made of that: a probe that is wrongly absent builds a
# module that is wrong for its kernel.
set -eu
dir=$1 header=$2 compile=$3
log=${header%.h}.log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The compiler's words are looked at.
LC_ALL=C
export LC_ALL

# at_fault <words>: the compiler names an error of the source, and none of its
# own. gcc ends with 1, too, when the program that it runs was killed or found
# the disk full.
at_fault() {
	grep -Eq ':[0-9]+: (error: |fatal error: .*(No such file|file not found))' "$1" &&
		! grep -Eqi 'internal compiler error|terminated program|out of memory|memory exhausted|cannot allocate|no space left' "$1"
}

probe() {
	name=$(basename "$1")
	status=0
	sh -c "$compile -fdiagnostics-color=never -x c $1" >"$work/$name.log" 2>&1 || status=$?
	if [ "$status" -eq 0 ]; then
		echo yes
	elif [ "$status" -eq 1 ] && at_fault "$work/$name.log"; then
		echo no
	else
		echo "none, the compiler ended with $status"
	fi >"$work/$name.result"
}

# result <probe>: "yes" or "no"; anything else is no answer.
result() {
	cat "$work/$1.result" 2>/dev/null || echo "none, not even how the compiler ended; is the disk full?"
}

running=0
for file in "$dir"/*.c; do
	probe "$file" &
	running=$((running + 1))
	if [ "$running" -ge 4 ]; then
		wait
		running=0
	fi
done
wait

{
	echo "compile command: $compile"
	for file in "$dir"/*.c; do
		name=$(basename "$file")
		echo "== $name: $(result "$name")"
		cat "$work/$name.log" || :
	done
} >"$log"

for file in "$dir"/*.c; do
	name=$(basename "$file")
	case $(result "$name") in yes | no) continue ;; esac
	echo "cowbird: the compiler gives no answer to the probe $name: $(result "$name")" >&2
	cat "$work/$name.log" >&2 || :
	echo "cowbird: mend that and build again; the full log is $log" >&2
	exit 1
done
if [ "$(result control_pass.c)" != yes ]; then
	echo "cowbird: the control probe does not compile; these kernel headers cannot be used." >&2
	cat "$work/control_pass.c.log" >&2
	echo "cowbird: the full log is $log" >&2
	exit 1
fi
if [ "$(result control_fail.c)" != no ]; then
	echo "cowbird: a probe that must fail compiles; probing is unreliable here. See $log" >&2
	exit 1
fi

{
	echo "/* Written by probes/run.sh; the compiler's words are in $(basename "$log"). */"
	for file in "$dir"/*.c; do
		name=$(basename "$file" .c)
		case $name in control_*) continue ;; esac
		macro=HAVE_$(echo "$name" | tr '[:lower:]' '[:upper:]')
		if [ "$(result "$name.c")" = yes ]; then
			echo "#define $macro 1"
		else
			echo "/* #undef $macro */"
		fi
	done
} >"$header.tmp"
mv "$header.tmp" "$header"
