#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# run.sh <probe directory> <header to write> <compile command>
#
# Compiles every probe and writes one #define for each that compiles. The
# compiler's words are kept beside the header, in cowbird_config.log: an error
# that has nothing to do with the probed feature must be visible. Two controls
# guard against a compiler that accepts or refuses everything.
set -eu
dir=$1 header=$2 compile=$3
log=${header%.h}.log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

probe() {
	if sh -c "$compile -x c $1" >"$work/$(basename "$1").log" 2>&1; then
		echo yes >"$work/$(basename "$1").result"
	else
		echo no >"$work/$(basename "$1").result"
	fi
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
		echo "== $name: $(cat "$work/$name.result")"
		cat "$work/$name.log"
	done
} >"$log"

if [ "$(cat "$work/control_pass.c.result")" != yes ]; then
	echo "cowbird: the control probe does not compile; these kernel headers cannot be used." >&2
	cat "$work/control_pass.c.log" >&2
	echo "cowbird: the full log is $log" >&2
	exit 1
fi
if [ "$(cat "$work/control_fail.c.result")" != no ]; then
	echo "cowbird: a probe that must fail compiles; probing is unreliable here. See $log" >&2
	exit 1
fi

{
	echo "/* Written by probes/run.sh; the compiler's words are in $(basename "$log"). */"
	for file in "$dir"/*.c; do
		name=$(basename "$file" .c)
		case $name in control_*) continue ;; esac
		macro=HAVE_$(echo "$name" | tr '[:lower:]' '[:upper:]')
		if [ "$(cat "$work/$name.c.result")" = yes ]; then
			echo "#define $macro 1"
		else
			echo "/* #undef $macro */"
		fi
	done
} >"$header.tmp"
mv "$header.tmp" "$header"
