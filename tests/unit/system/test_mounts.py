"""The kernel's list of mounts, parsed: names with spaces, sources without a name, the order."""

from __future__ import annotations

import os

from nblauncher.system.mounts import Mount, _parsed, mounts


def test_names_are_unescaped_and_options_told_apart():
    line = rb"36 35 98:1 /mnt1 /mnt/my\040disk\134x rw,noatime master:1 - ext4 /dev/disk/a\040b ro,errors=continue"
    mount = Mount(
        os.makedev(98, 1),
        "/mnt/my disk\\x",
        ("rw", "noatime"),
        "ext4",
        "/dev/disk/a b",
        ("ro", "errors=continue"),
    )
    assert _parsed(line) == mount
    assert not mount.is_writable


def test_a_mount_may_have_no_source_and_no_optional_field():
    mount = _parsed(b"1 2 0:5 / /run/\xff rw - tmpfs  rw,size=1m")
    assert (mount.point, mount.source, mount.is_writable) == ("/run/\udcff", "", True)


def test_the_root_file_system_is_listed_with_its_device():
    assert os.stat("/").st_dev in {mount.device for mount in mounts() if mount.point == "/"}
