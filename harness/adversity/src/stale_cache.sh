# stale-cache WHOLE PART NAME: what administrators do with a disk and its first partition, on which nothing is
# mounted. Prints one line for each outcome; the same script on another disk must print the same lines.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH DM_DISABLE_UDEV=1
whole=$1 part=$2 name=$3
mib=1048576
work=/tmp/stale-$name
mkdir -p "$work/mnt" /run/mount
cd "$work" || exit 9

say() { echo "$*"; }
# Runs a command, and says with what code it ended.
try() {
	label=$1
	shift
	"$@" >"$work/said" 2>&1
	say "$label: $?"
}
fill() { # file, character
	dd if=/dev/zero bs=64k count=4 2>/dev/null | tr '\0' "$2" >"$1"
}
# What a buffered reader of the partition finds, as one of the fills.
seen() {
	dd if="$part" bs=64k count=4 of="$work/seen" 2>/dev/null
	for letter in a b c d; do
		cmp -s "$work/seen" "$work/fill-$letter" && { say "$1: reads $letter"; return; }
	done
	say "$1: reads something else"
}
for letter in a b c d; do fill "fill-$letter" "$letter"; done

# Through the partition, and through the disk below it.
dd if=fill-a of="$part" bs=64k conv=fsync 2>/dev/null
seen 'written to the partition'
dd if=fill-b of="$whole" bs=64k seek=16 oflag=direct 2>/dev/null
seen 'written to the disk, direct'
dd if=fill-c of="$whole" bs=64k seek=16 conv=fsync 2>/dev/null
seen 'written to the disk, buffered'

# Through a device above.
sectors=$(blockdev --getsz "$part")
try 'create a device above' dmsetup create "above-$name" --table "0 $sectors linear $part 0"
seen 'read below it'
dd if=fill-d of="/dev/mapper/above-$name" bs=64k oflag=direct 2>/dev/null
seen 'written above, read below while it is there'
try 'remove the device above' dmsetup remove "above-$name"
seen 'written above, read below'

# Another filesystem by way of the disk.
first=11111111-1111-4111-8111-111111111111 second=22222222-2222-4222-8222-222222222222
try 'make a filesystem' mke2fs -q -F -t ext4 -U $first "$part"
say "its UUID: $(blkid -p -s UUID -o value "$part")"
dd if=/dev/zero of=other.img bs=$mib count=0 seek=12 2>/dev/null
mke2fs -q -F -t ext4 -b 1024 -U $second other.img >/dev/null 2>&1
dd if=other.img of="$whole" bs=$mib seek=1 oflag=direct 2>/dev/null
say "the other UUID: $(blkid -p -s UUID -o value "$part")"
try 'repair it' e2fsck -fy "$part"

# A filesystem with blocks of 1 KiB is checked, put back, used and checked.
dd if=other.img of="$whole" bs=$mib seek=1 conv=fsync 2>/dev/null
mount -t ext4 "$part" mnt && cp fill-a fill-b mnt/ && mkdir mnt/folder && umount mnt
try 'check it' e2fsck -fn "$part"
dd if=other.img of="$whole" bs=$mib seek=1 oflag=direct 2>/dev/null
try 'mount what was put back' mount -t ext4 "$part" mnt
ls mnt | tr '\n' ' '
cp fill-c fill-d mnt/ && umount mnt
try 'check it after use' e2fsck -fn "$part"

# Those who want a device for themselves.
try 'wipe it' wipefs -a "$part"
try 'make another one' mke2fs -q -t ext4 "$part"
try 'read the partitions anew' blockdev --rereadpt "$whole"
