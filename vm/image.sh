#!/bin/sh
# Makes a system to boot: Debian by debootstrap, its own kernel, Redis, supervisord and teamd, nothing of ours but the service that runs
# the tests, and a module of the kernel that Debian does not build. $1: Debian's name of the CPU, $2: the suite, $3: the folder for disk.img, vmlinuz and initrd.img, $4: the mirror.
set -eu
arch=$1 suite=$2 out=$3 mirror=$4
root=$out/root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
umask 022
rm -rf "$root"
mkdir -p "$root"

# Programs of another CPU run by qemu-user. The kernel opens it now, so it is found from within the new root, too.
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
	case $arch in
	arm64) elf='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' emulator=qemu-aarch64-static ;;
	*) echo "no emulator is known for $arch" >&2; exit 1 ;;
	esac
	formats=/proc/sys/fs/binfmt_misc
	[ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats
	if ! grep -qsx 'flags: .*F.*' $formats/qemu-aarch64; then
		name=portsyncd-vm-$$
		printf '%s' ":$name:M::$elf:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$(command -v $emulator):F" \
			>$formats/register
		trap 'echo -1 >$formats/$name' EXIT
	fi
fi

# INITRD=No: Debian's initrd takes half an hour to make for another CPU, so a small one is made below, of the same kernel's modules.
export INITRD=No
packages=systemd-sysv,udev,dbus,kmod,iproute2,procps,curl,openssl,busybox-static,linux-image-$arch,redis-server,supervisor,libteam-utils
debootstrap --arch="$arch" --variant=minbase --include=$packages "$suite" "$root" "$mirror" >"$out/debootstrap.log" 2>&1 ||
	{ tail -n 20 "$out/debootstrap.log" "$root"/debootstrap/debootstrap.log >&2; exit 1; }

cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
kernel=$(basename "$root"/boot/vmlinuz-* | sed 's/^vmlinuz-//')

# Debian's kernel leaves netdevsim out. The module is made of the same package's source, in a copy of the system, because of the compiler.
netdevsim=drivers/net/netdevsim
source=linux-source-$(echo "$kernel" | cut -d . -f 1,2)
cp -a "$root" "$out/build"
{
	chroot "$out/build" apt-get update -q
	chroot "$out/build" apt-get install -qy --no-install-recommends make "linux-headers-$kernel" "$source"
	tar -xJf "$out/build/usr/src/$source.tar.xz" -C "$out/build" "$source/$netdevsim"
	chroot "$out/build" make -C "/usr/src/linux-headers-$kernel" M="/$source/$netdevsim" CONFIG_NETDEVSIM=m modules
} >"$out/netdevsim.log" 2>&1 || { tail -n 20 "$out/netdevsim.log" >&2; exit 1; }
cp "$out/build/$source/$netdevsim/netdevsim.ko" "$root/lib/modules/$kernel/kernel/$netdevsim.ko"
depmod -b "$root" "$kernel"
rm -rf "$out/build"

initrd=$(mktemp -d)
mkdir "$initrd/dev" "$initrd/root"
cp "$root/bin/busybox" "$initrd/busybox"
{
	echo '#!/busybox sh'
	echo '/busybox mount -t devtmpfs dev /dev'
	for module in virtio_pci virtio_blk ext4; do
		modprobe -d "$root" -S "$kernel" --show-depends $module
	done | while read -r insmod file rest; do
		name=$(basename "${file%.xz}")
		if [ "$insmod" != insmod ] || [ -e "$initrd/$name" ]; then continue; fi # builtin, or there already
		case $file in
		*.xz) xz -dc "$file" >"$initrd/$name" ;;
		*) cp "$file" "$initrd/$name" ;;
		esac
		echo "/busybox insmod /$name"
	done
	echo '/busybox mount -t ext4 /dev/vda /root'
	echo 'exec /busybox switch_root /root /sbin/init'
} >"$initrd/init"
chmod 755 "$initrd/init"
(cd "$initrd" && find . | cpio --quiet -o -H newc) >"$out/initrd.img"
rm -rf "$initrd"

echo portsyncd-vm >"$root/etc/hostname"
echo 'LABEL=payload /vm ext4 ro,x-systemd.device-timeout=10min 0 0' >"$root/etc/fstab"
mkdir "$root/vm"
# What a small machine under emulation has no use for takes a third of its boot.
printf 'blacklist %s\n' kvm kvm_amd parport_pc pcspkr powernow_k8 >"$root/etc/modprobe.d/vm.conf"
for unit in getty@.service serial-getty@.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
chroot "$root" passwd -d root >/dev/null
rm -f "$root/etc/systemd/system/multi-user.target.wants/supervisor.service" "$root"/etc/rc?.d/S*supervisor # started by its test

# Redis as Debian ships it, with what docs/sonic.md expects of a switch's: a unix socket for its group, keyspace events, nothing on disk.
cat >>"$root/etc/redis/redis.conf" <<'CONF'
unixsocket /run/redis/redis.sock
unixsocketperm 770
notify-keyspace-events AKE
save ""
CONF
# Its database container says first of all that CONFIG_DB is still to be loaded.
mkdir -p "$root/etc/systemd/system/redis-server.service.d" "$root/etc/portsyncd-vm"
cat >"$root/etc/systemd/system/redis-server.service.d/sonic-db.conf" <<'CONF'
[Service]
ExecStartPost=+/usr/bin/install -D -m 644 /etc/portsyncd-vm/database_config.json /run/redis/sonic-db/database_config.json
ExecStartPost=+/usr/bin/redis-cli -s /run/redis/redis.sock -n 4 set CONFIG_DB_INITIALIZED 0
CONF
cat >"$root/etc/portsyncd-vm/database_config.json" <<'JSON'
{
  "VERSION": "1.0",
  "INSTANCES": {"redis": {"hostname": "127.0.0.1", "port": 6379, "unix_socket_path": "/run/redis/redis.sock", "persistence_for_warm_boot": "yes"}},
  "DATABASES": {
    "APPL_DB": {"id": 0, "separator": ":", "instance": "redis"},
    "CONFIG_DB": {"id": 4, "separator": "|", "instance": "redis"},
    "STATE_DB": {"id": 6, "separator": "|", "instance": "redis"}
  }
}
JSON
# The tests' output leaves by a port of its own: the console has the kernel's and systemd's. The machine goes off when they have ended.
cat >"$root/etc/systemd/system/vm-tests.service" <<'UNIT'
[Unit]
After=redis-server.service vm.mount systemd-user-sessions.service
Wants=redis-server.service
RequiresMountsFor=/vm
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh /vm/run
StandardOutput=file:/dev/virtio-ports/report
StandardError=inherit
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
UNIT
ln -s ../vm-tests.service "$root/etc/systemd/system/multi-user.target.wants/vm-tests.service"

truncate -s 3G "$out/disk.img"
mkfs.ext4 -q -F -L root -d "$root" "$out/disk.img"
rm -rf "$root"
