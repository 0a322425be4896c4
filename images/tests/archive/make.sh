#!/bin/sh
# Makes the small signed archive that the tests of `src/store.rs` fetch from, in this folder. It needs gcc, dpkg-deb,
# gpg, xz and zstd. The key is made for the occasion and thrown away, so a change to the archive changes all of it.
set -eu
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$here/dists" "$here/pool" "$here/keyring.gpg"
mkdir -p "$here/dists/test/main/binary-amd64" "$here/pool"
packages=$here/dists/test/main/binary-amd64/Packages
export SOURCE_DATE_EPOCH=1577836800

# package NAME VERSION DEPENDS FOLDER
package() {
    mkdir -p "$4/DEBIAN"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: amd64\n' "$1" "$2"
        printf 'Maintainer: nobody <nobody@example.org>\nDescription: test\n'
        if [ -n "$3" ]; then printf 'Depends: %s\n' "$3"; fi
    } > "$4/DEBIAN/control"
    file=pool/$1_$2_amd64.deb
    dpkg-deb --root-owner-group -Zgzip -b "$4" "$here/$file" > /dev/null
    {
        cat "$4/DEBIAN/control"
        printf 'Filename: %s\nSize: %s\n' "$file" "$(stat -c %s "$here/$file")"
        printf 'SHA256: %s\n\n' "$(sha256sum "$here/$file" | cut -d' ' -f1)"
    } >> "$packages"
}

# module FILE FIELD...: an object file that holds nothing but .modinfo
module() {
    file=$1
    shift
    mkdir -p "$(dirname "$file")"
    : > "$work/m.S"
    echo '.section .modinfo, "a"' >> "$work/m.S"
    for field; do printf '.asciz "%s"\n' "$field" >> "$work/m.S"; done
    gcc -c -o "$file" "$work/m.S"
}

for version in 9.9.9 9.9.10; do
    release=$version-test-amd64
    exact="(= $version-1)"
    modules=$work/modules/usr/lib/modules/$release
    package "linux-image-$release" "$version-1" \
        "kmod, linux-binary-$release $exact, linux-modules-$release $exact | linux-modules" "$work/image"
    mkdir -p "$work/binary/usr/lib/modules/$release"
    echo "kernel $version" > "$work/binary/usr/lib/modules/$release/vmlinuz"
    package "linux-binary-$release" "$version-1" "" "$work/binary"
    module "$modules/kernel/fs/upper.ko" name=upper depends=lower,plain "softdep=pre: extra-alias built-in"
    module "$modules/kernel/lib/lower.ko" name=lower depends=
    module "$modules/kernel/lib/plain.ko" name=plain depends=
    module "$modules/kernel/lib/extra.ko" name=extra alias=extra-alias depends=
    xz --check=crc32 "$modules/kernel/fs/upper.ko"
    zstd -q --rm "$modules/kernel/lib/lower.ko"
    echo kernel/drivers/built-in.ko > "$modules/modules.builtin"
    printf 'builtin.alias=other-name\0' > "$modules/modules.builtin.modinfo"
    package "linux-modules-$release" "$version-1" "linux-base (>= 4.12~)" "$work/modules"
    mkdir -p "$work/headers/usr/src/linux-headers-$release"
    echo "modules:" > "$work/headers/usr/src/linux-headers-$release/Makefile"
    package "linux-headers-$release" "$version-1" "gcc-12-for-host, linux-kbuild-9.9 (>= $version-1)" "$work/headers"
    rm -rf "$work/image" "$work/binary" "$work/modules" "$work/headers"
done
mkdir -p "$work/kbuild/usr/lib/linux-kbuild-9.9/scripts"
package linux-kbuild-9.9 9.9.10-1 "libc6" "$work/kbuild"

release=$here/dists/test/InRelease
export GNUPGHOME="$work/gnupg"
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-gen-key 'Cowbird test archive <nobody@example.org>' ed25519 sign never
cat > "$work/Release" <<RELEASE
Origin: Test
Label: Test
Suite: test
Codename: test
Date: Wed, 01 Jan 2020 00:00:00 UTC
Valid-Until: Thu, 02 Jan 2020 00:00:00 UTC
Architectures: amd64
Components: main
SHA256:
 $(sha256sum "$packages" | cut -d' ' -f1) $(stat -c %s "$packages") main/binary-amd64/Packages
RELEASE
gpg --batch --quiet --clearsign --output "$release" "$work/Release"
gpg --batch --quiet --export --output "$here/keyring.gpg"
