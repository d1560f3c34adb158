#!/bin/sh
# The first program. It and everything it starts is measured; see docs/adr/0019-attested-host-image.md.
# Whatever fails ends the boot: a host that came up halfway must not come up at all.
export PATH=/bin
set -eu

stop() {
  echo "attested-host: cannot start: $1" >/dev/console
  poweroff -f
  sleep 60
}
trap 'stop "the init script failed"' EXIT

# Only root and whoever a process belongs to see it: a job's words stand in its command line.
mount -t proc -o nosuid,nodev,noexec,hidepid=invisible proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,noexec devtmpfs /dev
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security

# In the enforcing profile: the one key by which code is signed, in a ring that takes no other.
if [ -e /etc/keys/ima.der ]; then
  ring=$(keyctl newring _ima @u) || stop "no key ring"
  keyctl padd asymmetric "" "$ring" </etc/keys/ima.der >/dev/null || stop "no key in the ring"
  keyctl restrict_keyring "$ring" || stop "the key ring stays open"
fi

# The kernel reads the file itself, and measures what it read; there is no second time.
echo /etc/ima/ima-policy >/sys/kernel/security/ima/policy || stop "no IMA policy"

while read -r module; do
  insmod "/lib/modules/$module" || stop "module $module"
done </etc/modules

while read -r key value; do
  echo "$value" >"/proc/sys/$key" || stop "sysctl $key"
done </etc/sysctl

root=
for word in $(cat /proc/cmdline); do
  case $word in svetovid.root=*) root=${word#*=} ;; esac
done
[ -n "$root" ] || stop "no svetovid.root= on the command line"
blocks=${root%%:*}
hash=${root##*:}

device=
for second in 1 2 3 4 5 6 7 8 9 10; do
  for found in $(grep -lx PARTNAME=svetovid-root /sys/class/block/*/uevent || true); do
    device=/dev/$(basename "$(dirname "$found")")
  done
  [ -z "$device" ] || break
  sleep "$second"
done
[ -n "$device" ] || stop "no partition svetovid-root"

# The hash tree follows the data. A block that does not fit it is a read error (T16).
dmsetup create root --readonly --noudevsync --noudevrules --table \
  "0 $((blocks * 8)) verity 1 $device $device 4096 4096 $blocks $blocks sha256 $hash -" ||
  stop "dm-verity"
mount -t squashfs -o ro,nosuid,nodev /dev/dm-0 /sysroot || stop "root file system"

echo 1 >/proc/sys/kernel/modules_disabled
for folder in proc sys dev; do
  mount --move /$folder /sysroot/$folder
done
trap - EXIT
exec switch_root /sysroot /usr/bin/python3.11 -I -B /usr/lib/svetovid/service.py
