"""A real browser without a screen: a page is opened from the disk, a script plays its reader, and what the script saw comes back."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
needed = pytest.mark.skipif(FOUND is None, reason=f"none of {', '.join(NAMES)} is installed: the report's script is not tested")

READER = """<script>(async () => {
  const rest = (milliseconds = 20) => new Promise((done) => setTimeout(done, milliseconds));
  const all = (selector) => [...document.querySelectorAll(selector)];
  const frame = () => new Promise((done) => requestAnimationFrame(done)); // some events come with a frame, which timers can outrun
  const until = async (holds) => { for (let tries = 0; tries < 200 && !holds(); tries += 1) await frame(); };
  const visit = async (fragment) => {
    const heard = new Promise((done) => window.addEventListener("hashchange", done, { once: true }));
    location.hash = fragment; await heard; await rest();
  };
  const press = async (key, target = document.activeElement) => {
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })); await rest();
  };
  const seen = {};
  try { await rest(); BODY } catch (error) { seen.error = String(error); }
  const failed = document.getElementById("script-error");
  seen.error ??= failed.hidden ? null : failed.textContent;
  seen.overflow = document.documentElement.scrollWidth - window.innerWidth;
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
})();</script></body>"""


ATTEMPTS = 3  # on a machine with much to do, the page's virtual time can run out before a frame has been drawn
NARROWEST = 500  # pixels: no window of Chromium is narrower, a frame in it is
FRAME = """<!doctype html><body style="margin: 0"><iframe style="width: WIDTHpx; height: 850px; border: 0" src="SOURCE"></iframe><script>
const waits = setInterval(() => {
  const seen = document.querySelector("iframe").contentDocument?.getElementById("seen");
  if (seen) { clearInterval(waits); document.body.append(seen.cloneNode(true)); }
}, 20);</script></body>"""


def read(page: Path, folder: Path, script: str, *, fragment: str = "", width: int = 1400) -> dict:
    """What `script`, the body of an async function, put into `seen`; and "error", null unless a script of the page failed, and "overflow",
    pixels by which the page is wider than the window. folder: for the browser's profile. The page is opened at its fragment."""
    copy = page.with_name("read.html")  # beside the page, so that linked pictures are found
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", READER.replace("BODY", script)), encoding="utf-8")
    opened = copy.as_uri() + fragment
    if width < NARROWEST:
        frame = page.with_name("frame.html")
        frame.write_text(FRAME.replace("WIDTH", str(width)).replace("SOURCE", escape(opened)), encoding="utf-8")
        opened = frame.as_uri()
    command = [FOUND, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--window-size={width},900"]
    command += ["--virtual-time-budget=20000", "--allow-file-access-from-files", "--dump-dom", opened]
    for attempt in range(ATTEMPTS):
        done = subprocess.run([*command, f"--user-data-dir={folder / f'profile{attempt}'}"], capture_output=True, timeout=120, check=False)
        found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout.decode(errors="replace"), re.DOTALL)
        if found:
            break
    copy.unlink()
    page.with_name("frame.html").unlink(missing_ok=True)
    assert found, f"the browser showed nothing (status {done.returncode}): {done.stderr.decode(errors='replace')[-2000:]}"
    return json.loads(unescape(found[1]))
