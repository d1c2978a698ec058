#!/usr/bin/env python3
"""`make install` into a folder, and the installed program under a service manager's protocol. test-timeout: 600

With OTTER_TEST_DEB=1 also the Debian package, which is built (some minutes) and held to lintian."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "http"))

import server_process  # noqa: E402
from server_process import Server, SkipCase, expect, expect_true, require_model, run_cases  # noqa: E402

BUILD = os.environ.get("BUILD", "build")


def run(*command, **options):
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)
    expect(done.returncode, 0, f"{' '.join(map(str, command))}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def installs_everything(folder):
    run("make", f"BUILD={BUILD}", "-s", "install", f"DESTDIR={folder}", "PREFIX=/usr")
    for path in ("usr/bin/otter", "usr/share/otter/heads/toxicity.gguf", "usr/lib/systemd/system/otter.service",
                 "usr/lib/sysusers.d/otter.conf", "etc/otter/otter.yaml", "usr/share/man/man1/otter-serve.1",
                 "usr/share/bash-completion/completions/otter"):
        expect_true((folder / path).stat().st_size > 0, path)
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".service", ".yaml", ".conf", ".1"):
            expect_true("@" not in path.read_text().replace("@system-service", "").replace("@privileged", ""), f"{path} has a place not filled")


def keeps_a_configuration(folder):
    config = folder / "etc/otter/otter.yaml"
    config.write_text("# mine\n")
    run("make", f"BUILD={BUILD}", "-s", "install", f"DESTDIR={folder}", "PREFIX=/usr")
    expect(config.read_text(), "# mine\n")
    config.unlink()
    run("make", f"BUILD={BUILD}", "-s", "install", f"DESTDIR={folder}", "PREFIX=/usr")


def has_manuals_of_every_option(folder):
    """Every flag that --help lists is in the manual page and in both completions, and man finds nothing to complain of."""
    bash = (folder / "usr/share/bash-completion/completions/otter").read_text()
    zsh = (folder / "usr/share/zsh/vendor-completions/_otter").read_text()
    for command in ("serve", "generate", "score", "init", "train", "eval", "tokenize", "inspect", "bench"):
        page = folder / f"usr/share/man/man1/otter-{command}.1"
        text = page.read_text().replace("\\-", "-")
        for line in run(folder / "usr/bin/otter", command, "--help").splitlines():
            if line.startswith("  --"):
                flag = line.split()[0].rstrip(",")
                expect_true(f".B {flag}" in text, f"{page.name} lacks {flag}")
                expect_true(flag in bash and flag in zsh, f"a completion lacks {flag}")
        if shutil.which("groff"):
            expect(subprocess.run(["groff", "-man", "-ww", "-z", str(page)], capture_output=True, text=True).stderr, "", page.name)
    script = ('source "$1"; COMP_WORDS=(otter serve --kv-type ""); COMP_CWORD=3; _otter; echo "${COMPREPLY[@]}";'
              'COMP_WORDS=(otter ser); COMP_CWORD=1; _otter; echo "${COMPREPLY[@]}"')
    expect(run("bash", "-c", script, "bash", folder / "usr/share/bash-completion/completions/otter").split("\n")[:2], ["f16 f32", "serve"])


def the_configuration_serves(folder):
    """The installed configuration, with the paths of the installation below `folder`, and what it says to the service manager."""
    require_model()
    config = folder / "test.yaml"
    config.write_text((folder / "etc/otter/otter.yaml").read_text().replace("/usr/share", f"{folder}/usr/share"))
    if not (folder / "usr/share/otter/models" / server_process.MODEL.name).exists():
        raise SkipCase("the default model was not installed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(60)
        server = Server("--config", config, env={"NOTIFY_SOCKET": str(folder / "notify")})
        server.command = lambda: [str(folder / "usr/bin/otter"), "serve", "--config", str(config), "--port", str(server.port)]
        with server:
            expect(manager.recv(1000).split(b"\n")[0], b"READY=1")
            expect(server.complete("Hello", model="smollm2+gentle", max_tokens=2)["model"], "smollm2+gentle")
            server.terminate()
            expect(manager.recv(1000).split(b"\n")[0], b"STOPPING=1")
            expect(server.wait_stopped(), 0)


def the_unit_is_sound(folder):
    if not shutil.which("systemd-analyze"):
        raise SkipCase("there is no systemd-analyze")
    unit = folder / "otter.service"  # with a program and a page that are there, since verify looks for them
    text = (folder / "usr/lib/systemd/system/otter.service").read_text()
    unit.write_text("".join(line.replace("/usr/bin/otter", "/bin/true") for line in text.splitlines(True) if "Documentation" not in line))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "otter.service" in line]
    expect([done.returncode, said], [0, []])


def uninstalls(folder):
    run("make", f"BUILD={BUILD}", "-s", "uninstall", f"DESTDIR={folder}", "PREFIX=/usr")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expect(left, ["etc/otter/otter.yaml", "otter.service", "test.yaml"])


def the_debian_package_is_clean(_folder):
    if os.environ.get("OTTER_TEST_DEB") != "1":
        raise SkipCase("OTTER_TEST_DEB=1 builds the Debian package")
    for program in ("dh", "lintian"):
        if not shutil.which(program):
            raise SkipCase(f"there is no {program}")
    package = [line for line in run("make", f"BUILD={BUILD}", "-s", "deb").split() if "dbgsym" not in line]
    found = subprocess.run(["lintian", "--fail-on", "error,warning", *package], cwd=ROOT, capture_output=True, text=True)
    expect([found.returncode, found.stdout], [0, ""])
    listed = run("dpkg-deb", "--contents", package[0])
    for path in ("./lib/systemd/system/otter.service", "./etc/otter/otter.yaml", "./usr/share/man/man1/otter.1.gz", "./usr/bin/otter"):
        expect_true(path in listed, f"the package lacks {path}")


def main():
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        return run_cases([installs_everything, keeps_a_configuration, has_manuals_of_every_option, the_configuration_serves,
                          the_unit_is_sound, uninstalls, the_debian_package_is_clean], pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main())
