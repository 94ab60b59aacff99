# Unpacks RabbitMQ and Erlang of a Debian release into DEST, so that they run there on any x86-64 or arm64 Linux that has apt:
# the host's packages and its apt sources stay as they are (patchelf and Debian's keyring are added where they are missing).
#   SUITE   forky | trixie
#   DEST    the directory to make; paths are baked in, so it cannot be moved
#   MIRROR  a Debian mirror; empty: the one of this host's apt sources, else deb.debian.org
# The caller holds a lock on DEST. The last line of the output describes what was installed.
set -euo pipefail
say() { printf 'brokers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

case $(uname -m) in
x86_64) TRIPLET=x86_64-linux-gnu LOADER=ld-linux-x86-64.so.2 ;;
aarch64) TRIPLET=aarch64-linux-gnu LOADER=ld-linux-aarch64.so.1 ;;
*) fail "no recipe for $(uname -m)" ;;
esac

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
missing=()
command -v patchelf >/dev/null || missing+=(patchelf)
[ -e "$KEYRING" ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  as=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "please install ${missing[*]}: that needs root"
    as=(sudo -n)
  fi
  "${as[@]}" apt-get -qq -o DPkg::Lock::Timeout=120 update >/dev/null 2>&1 || true
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ -z "$MIRROR" ]; then
  MIRROR=$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true) |
    awk '!/^ *#/ { for (i = 1; i <= NF; i++) if (!m && $i ~ /^https?:.*\/debian\/?$/) m = $i } END { print m }')
fi
MIRROR=${MIRROR:-http://deb.debian.org/debian}

rm -rf "$DEST".tmp.* # of installers that were killed
TMP=$(mktemp -d "$DEST.tmp.XXXXXX")
trap 'rm -rf "$TMP"' EXIT
APT=$TMP/apt
mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial" "$TMP/debs" "$TMP/tree"
echo "deb [signed-by=$KEYRING] $MIRROR $SUITE main" >"$APT/sources.list"
O=(-qq
  -o Dir::Etc::sourcelist="$APT/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$APT/lists"
  -o Dir::Cache="$APT/cache" -o Dir::State::status=/dev/null
  -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 -o Acquire::Languages=none
  -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false # 5 MB that nobody reads
  # testing's index expires after a week: that of a mirror which lags is old, but still signed.
  -o Acquire::Check-Valid-Until=false)
say "reading the package index of $SUITE from $MIRROR"
apt-get "${O[@]}" update
# What apt would install on an empty system, less what the broker never runs.
mapfile -t PKGS < <(apt-get "${O[@]}" install -s --no-install-recommends rabbitmq-server |
  awk '$1=="Inst"{print $2}' |
  grep -E '^(rabbitmq-server|erlang-.*|libc6|libgcc-s1|libstdc\+\+6|libtinfo6|libncursesw6|zlib1g|libssl3.*|libzstd1|libsystemd0|libcap2|liblzma5|liblz4-1|libsctp1)$')
[ ${#PKGS[@]} -gt 0 ] || fail "$SUITE of $MIRROR has no rabbitmq-server"
say "downloading ${#PKGS[@]} packages, about 55 MB"
(cd "$TMP/debs" && apt-get "${O[@]}" download "${PKGS[@]}")
for d in "$TMP"/debs/*.deb; do
  dpkg-deb --fsys-tarfile "$d" | tar -x -C "$TMP/tree" \
    --exclude='./usr/share/doc*' --exclude='./usr/share/man*' --exclude='./usr/share/locale*' \
    --exclude='./lib/systemd*' --exclude='./usr/lib/systemd*' --exclude='*/gconv/*'
done

# Its own dynamic loader and libraries. DT_RPATH, not RUNPATH: crypto.so finds libcrypto only through the executable's.
T=$TMP/tree
# (newer cp -n calls it a failure that it has left a file alone)
if [ -d "$T/lib/$TRIPLET" ]; then cp -an "$T/lib/$TRIPLET/." "$T/usr/lib/$TRIPLET/" 2>/dev/null || true; fi
LIB=$DEST/usr/lib/$TRIPLET
if [ ! -e "$T/usr/lib/$TRIPLET/$LOADER" ] && [ -e "$T/usr/lib/$LOADER" ]; then cp -a "$T/usr/lib/$LOADER" "$T/usr/lib/$TRIPLET/"; fi
[ -e "$T/usr/lib/$TRIPLET/$LOADER" ] || fail "libc6 of $SUITE has no $LOADER"
find "$T/usr/lib/erlang" -type f -perm -u+x -print0 | while IFS= read -r -d '' f; do
  patchelf --print-interpreter "$f" >/dev/null 2>&1 || continue
  patchelf --set-interpreter "$LIB/$LOADER" --force-rpath --set-rpath "$LIB" "$f"
done
sed -i "s#ROOTDIR=/usr/lib/erlang#ROOTDIR=$DEST/usr/lib/erlang#" "$T/usr/lib/erlang/bin/erl" "$T"/usr/lib/erlang/erts-*/bin/erl 2>/dev/null || true
ln -s "$(basename "$(echo "$T"/usr/lib/rabbitmq/lib/rabbitmq_server-*)")" "$T/usr/lib/rabbitmq/lib/current"
V=$(dpkg-deb -f "$TMP"/debs/rabbitmq-server_*.deb Version)
E=$(dpkg-deb -f "$TMP"/debs/erlang-base_*.deb Version)
rm -rf "$DEST"
mv "$T" "$DEST"
echo "rabbitmq $V, erlang $E, debian $SUITE" | tee "$DEST/.complete"
