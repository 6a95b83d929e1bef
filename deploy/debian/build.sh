#!/bin/sh
# Makes portsyncd_<version>_<arch>.deb. $1: the binary to pack, $2: Debian's name of its architecture, $3: the version, $4: the folder for
# the package, $5: a binary that runs on this machine, whose -help is the man page's list of flags.
set -eu
binary=$1 arch=$2 version=$3 out=$4 native=$5
top=$(CDPATH= cd "$(dirname "$0")/../.." && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 755 "$root"
SOURCE_DATE_EPOCH=$(git -C "$top" log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

put() { install -D -m "$1" "$2" "$root/$3"; }
put 755 "$binary" usr/sbin/portsyncd
put 644 "$top/deploy/systemd/portsyncd.service" lib/systemd/system/portsyncd.service
put 644 "$top/deploy/systemd/portsyncd@.service" lib/systemd/system/portsyncd@.service
put 644 "$top/deploy/systemd/portsyncd.socket" lib/systemd/system/portsyncd.socket
put 644 "$top/deploy/debian/portsyncd.default" etc/default/portsyncd
doc=usr/share/doc/portsyncd
put 644 "$top/deploy/debian/copyright" $doc/copyright
put 644 "$top/deploy/debian/lintian-overrides" usr/share/lintian/overrides/portsyncd
for file in README.md SECURITY.md $(cd "$top" && echo docs/*) deploy/prometheus/portsyncd.rules.yml \
	deploy/prometheus/portsyncd.recording.yml deploy/prometheus/scrape.yml deploy/grafana/portsyncd.json deploy/supervisord/portsyncd.conf \
	deploy/supervisord/portsyncd-pair.conf deploy/supervisord/portsyncd-pair-listener deploy/systemd/netns.conf; do
	put 644 "$top/$file" $doc/$file
done

# Debian's versions begin with a digit and have no dash before the package's own revision. What git counts after a tag is newer than that, and what
# is behind the version itself, as rc1, older than it without.
case $version in
v[0-9]* | [0-9]*.*) version=$(echo "${version#v}" | sed -E 's/-([0-9]+)-g([0-9a-f]+)/+\1+g\2/; s/-dirty$/+dirty/; s/-/~/; s/-/./g') ;;
*) version="0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d).$(echo "$version" | tr - +)" ;;
esac
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
printf 'portsyncd (%s) unstable; urgency=medium\n\n  * See /usr/share/doc/portsyncd/README.md and the project'"'"'s CHANGELOG.md.\n\n -- The portsyncd authors <portsyncd@example.org>  %s\n' \
	"$version" "$date" | gzip -9n >"$root/$doc/changelog.gz"

# Each "  -flag value" and the text after it become an item of the man page.
mkdir -p "$root/usr/share/man/man8"
flags=$(mktemp)
"$native" -help 2>&1 | awk '{ gsub(/\\/, "\\e"); gsub(/-/, "\\-") }
	/^  \\-/ { print ".TP"; print ".BI \"" $1 " \" \"" $2 "\"" }
	/^ *\t/ { sub(/^ *\t/, ""); print "\\&" $0 }' >"$flags"
sed -e "/@FLAGS@/r $flags" -e '/@FLAGS@/d' "$top/deploy/debian/portsyncd.8" | gzip -9n >"$root/usr/share/man/man8/portsyncd.8.gz"
rm "$flags"

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<EOF
Package: portsyncd
Version: $version
Architecture: $arch
Maintainer: The portsyncd authors <portsyncd@example.org>
Section: net
Priority: optional
Suggests: redis-server, prometheus
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Homepage: https://sonicfoundation.dev/
Description: port synchronization daemon for SONiC switches
 Mirrors the kernel's link state into SONiC's Redis databases, in place of
 the portsyncd of sonic-swss, and serves its own metrics to Prometheus.
 .
 It loses nothing: socket overruns, Redis outages and restarts heal by
 themselves. The program is one static binary.
EOF
echo /etc/default/portsyncd >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
	install -m 755 "$top/deploy/debian/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/portsyncd_${version}_$arch.deb" >/dev/null
echo "$out/portsyncd_${version}_$arch.deb"
