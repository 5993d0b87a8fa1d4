"""Attacks on files: reading, writing, linking, and changing what is outside the task's folder."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy

from tests.attacks.conftest import NO_ERRNO, SECRET, SECRET_NAME, Attack, not_in_bubblewrap

DEVICES = ("mem", "kmsg", "vda", "sda", "nvme0n1", "tty", "ptmx", "full")  # "full" is everywhere
OWN_FILE = "open('own.txt', 'w').write('mine')\nassert open('own.txt').read() == 'mine'"


def test_read_etc_passwd(attack: Attack) -> None:
    attack.repelled("open('/etc/passwd').read()", OWN_FILE)


def test_read_ssh_key(attack: Attack) -> None:
    key = attack.folder / ".ssh" / "id_ed25519"
    key.parent.mkdir()
    key.write_text("private")
    attack.repelled(f"open({str(key)!r}).read()", OWN_FILE)


@not_in_bubblewrap("a home that leads to the interpreter is there, with that path alone in it")
def test_list_home(attack: Attack) -> None:
    attack.repelled(f"os.listdir({str(Path.home())!r})", "os.listdir('.')")


def test_read_folder_of_another_task(attack: Attack) -> None:
    other = attack.folder / "task-of-another"
    other.mkdir()
    (other / "checkpoint.npz").write_bytes(b"numbers")
    attack.repelled(
        f"open({str(other / 'checkpoint.npz')!r}, 'rb').read()",
        "open('checkpoint.npz', 'wb').write(b'x'); open('checkpoint.npz', 'rb').read()",
    )


def test_read_agents_journal(attack: Attack) -> None:
    journal = attack.folder / "journal.sqlite"
    with sqlite3.connect(journal) as connection:
        connection.execute("create table task (id)")
    connection.close()
    attack.repelled(
        f"import sqlite3; sqlite3.connect({str(journal)!r}).execute('select * from task')",
        "import sqlite3; c = sqlite3.connect('own.sqlite'); c.execute('create table t (a)');"
        " c.execute('insert into t values (1)'); c.commit();"
        " assert c.execute('select a from t').fetchall() == [(1,)]",
        refusals=(NO_ERRNO,),  # sqlite3: unable to open database file
    )


def test_read_agents_token(attack: Attack) -> None:
    token = attack.folder / "identity.json"
    token.write_text("{}")
    token.chmod(0o600)
    attack.repelled(f"os.open({str(token)!r}, os.O_RDONLY)", "os.open('.', os.O_RDONLY)")


def test_read_agents_environment_from_proc(attack: Attack) -> None:
    attack.repelled(
        "open(f'/proc/{AGENT}/environ', 'rb').read()", "assert os.environ['OMP_NUM_THREADS'] == '1'"
    )


def test_inherit_agents_environment(attack: Attack) -> None:
    assert os.environ[SECRET_NAME] == SECRET
    attack.repelled(
        f"os.environ[{SECRET_NAME!r}]",
        "assert os.environ['HOME'] == os.getcwd()",
        refusals=(NO_ERRNO,),  # KeyError
    )


def test_find_agents_secret_in_memory(attack: Attack) -> None:
    """The zygote was started by exec with a clean environment: it has no secret of the agent."""
    finished = attack.run(
        f"""
        environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
        seen, i = [], 0
        while environ[i]:
            seen.append(environ[i]); i += 1
        value = [len(seen), sum({SECRET_NAME.encode()!r} in line for line in seen)]
        """
    )
    assert finished.result["value"][0] > 3
    assert finished.result["value"][1] == 0


def test_write_outside(attack: Attack) -> None:
    attack.repelled("open(OUTSIDE, 'a').write('x')", OWN_FILE)
    assert attack.outside.read_text() == "keep out"


def test_create_outside(attack: Attack) -> None:
    attack.repelled("open(OUTSIDE + '.new', 'x')", "open('new', 'x')")
    assert not Path(f"{attack.outside}.new").exists()


def test_write_into_interpreter(attack: Attack) -> None:
    library = str(Path(numpy.__file__).parent / "__init__.py")
    attack.repelled(f"os.open({library!r}, os.O_WRONLY)", f"os.open({library!r}, os.O_RDONLY)")


def test_write_into_own_package(attack: Attack) -> None:
    import axiom_client

    attack.repelled(
        f"open({str(Path(axiom_client.__file__).parent / 'planted.py')!r}, 'x')",
        "import axiom_client.run.task",
    )


def test_write_tmp(attack: Attack) -> None:
    attack.repelled(
        "open('/tmp/axiom-planted', 'w')",
        "import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x')",
    )
    assert not Path("/tmp/axiom-planted").exists()


def test_write_dev_shm(attack: Attack) -> None:
    attack.repelled("open('/dev/shm/axiom-planted', 'w')", "open('/dev/null', 'w').write('x')")
    assert not Path("/dev/shm/axiom-planted").exists()


def test_read_disk_device(attack: Attack) -> None:
    present = [path for path in Path("/dev").iterdir() if path.name in DEVICES]
    attack.repelled(
        f"[os.open(path, os.O_RDONLY) for path in {[str(path) for path in present]!r}]",
        "assert len(open('/dev/urandom', 'rb').read(8)) == 8",
    )


def test_make_symlink_and_follow(attack: Attack) -> None:
    attack.repelled(
        "os.symlink(OUTSIDE, 'link'); open('link').read()",
        "open('a', 'w').close(); os.rename('a', 'b'); open('b').read()",
    )


def test_follow_symlink_planted_before(attack: Attack) -> None:
    own = attack.folder / "own"
    own.mkdir()
    (own / "link").symlink_to(attack.outside)
    (own / "inside").symlink_to("real.txt")
    (own / "real.txt").write_text("mine")
    attack.repelled("open('link').read()", "open('inside').read()", task_folder=own)


def test_write_through_symlinked_folder(attack: Attack) -> None:
    own, target = attack.folder / "own", attack.folder / "target"
    own.mkdir()
    target.mkdir()
    (own / "sub").symlink_to(target)
    attack.repelled(
        "open('sub/planted', 'w')", "os.mkdir('d'); open('d/f', 'w').close()", task_folder=own
    )
    assert list(target.iterdir()) == []


def test_hard_link_outside(attack: Attack) -> None:
    attack.repelled("os.link(OUTSIDE, 'stolen')", "os.stat('.')")


def test_rename_outside_file_in(attack: Attack) -> None:
    attack.repelled(
        "os.rename(OUTSIDE, 'stolen')",
        "os.makedirs('d/e'); open('f', 'w').close(); os.rename('f', 'd/e/f')",
    )
    assert attack.outside.exists()


def test_move_own_file_out(attack: Attack) -> None:
    attack.repelled(
        "open('f', 'w').close(); os.rename('f', OUTSIDE)", "open('f', 'w'); os.replace('f', 'g')"
    )
    assert attack.outside.read_text() == "keep out"


def test_truncate_outside(attack: Attack) -> None:
    attack.repelled(
        "os.truncate(OUTSIDE, 0)",
        "f = open('own', 'wb'); f.write(b'abc'); f.flush(); f.truncate(1)",
    )
    assert attack.outside.read_text() == "keep out"


def test_truncate_outside_by_opening_for_reading(attack: Attack) -> None:
    attack.repelled(
        "os.open(OUTSIDE, os.O_RDONLY | os.O_TRUNC)",
        "open('own', 'w').write('abc'); os.open('own', os.O_WRONLY | os.O_TRUNC);"
        " assert os.stat('own').st_size == 0",
    )
    assert attack.outside.read_text() == "keep out"


def test_chmod_outside(attack: Attack) -> None:
    attack.repelled("os.chmod(OUTSIDE, 0o000)", "os.stat(os.__file__)")
    assert attack.outside.stat().st_mode & 0o777 != 0


def test_fchmod_library(attack: Attack) -> None:
    """A file that may be read must not be changed through its descriptor either."""
    library = str(Path(numpy.__file__).parent / "version.py")
    before = os.stat(library).st_mode
    attack.repelled(f"os.fchmod(os.open({library!r}, os.O_RDONLY), 0o000)", f"open({library!r})")
    assert os.stat(library).st_mode == before


def test_chown_outside(attack: Attack) -> None:
    attack.repelled("os.chown(OUTSIDE, os.getuid(), os.getgid())", "os.getuid(), os.getgid()")


def test_set_times_outside(attack: Attack) -> None:
    before = attack.outside.stat().st_mtime
    attack.repelled("os.utime(OUTSIDE, (0, 0))", "assert os.stat(os.__file__).st_mtime > 0")
    assert attack.outside.stat().st_mtime == before


def test_set_extended_attribute_outside(attack: Attack) -> None:
    attack.repelled("os.setxattr(OUTSIDE, 'user.axiom', b'x')", OWN_FILE)
    assert "user.axiom" not in os.listxattr(attack.outside)


def test_delete_outside(attack: Attack) -> None:
    attack.repelled("os.unlink(OUTSIDE)", "open('own', 'w'); os.unlink('own')")
    assert attack.outside.exists()


def test_make_folder_outside(attack: Attack) -> None:
    attack.repelled("os.mkdir(OUTSIDE + '.d')", "os.mkdir('d'); os.rmdir('d')")


def test_remove_own_folder(attack: Attack) -> None:
    own = attack.folder / "own"
    own.mkdir()
    attack.repelled(
        f"os.rmdir({str(own)!r})", "import os.path; os.mkdir('d'); os.rmdir('d')", task_folder=own
    )
    assert own.is_dir()


def test_make_device(attack: Attack) -> None:
    attack.repelled(
        "import stat; os.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
        "os.close(os.open('plain', os.O_CREAT | os.O_WRONLY, 0o600))",
    )


def test_make_fifo(attack: Attack) -> None:
    attack.repelled(
        "os.mkfifo('fifo')", "r, w = os.pipe(); os.write(w, b'x'); assert os.read(r, 1) == b'x'"
    )


def test_climb_by_dot_dot(attack: Attack) -> None:
    attack.repelled("open('../outside.txt').read()", "os.mkdir('d'); open('d/../own', 'w')")


def test_climb_by_folder_descriptor(attack: Attack) -> None:
    attack.repelled(
        "d = os.open('..', os.O_RDONLY | os.O_DIRECTORY); os.open('outside.txt', 0, dir_fd=d)",
        "open('f', 'w').close();"
        " d = os.open('.', os.O_RDONLY | os.O_DIRECTORY); os.open('f', 0, dir_fd=d)",
    )


def test_climb_by_proc_root(attack: Attack) -> None:
    attack.repelled("open('/proc/self/root/etc/passwd').read()", OWN_FILE)


def test_open_by_handle(attack: Attack) -> None:
    attack.repelled(
        "handle = ctypes.create_string_buffer(b'\\x80' + bytes(150))\n"
        "syscall(303, 264, -100, b'.', handle, ctypes.byref(ctypes.c_int()), 0)",
        "os.open('.', os.O_PATH)",
    )


def test_chroot(attack: Attack) -> None:
    attack.repelled("os.chroot('.')", "os.chdir('.'); os.getcwd()")
