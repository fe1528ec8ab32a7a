"""What the book's build knows beyond its settings: where its repository is, which library the
chapters ran on, and how a page stays whole with the network off."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from myst_nb.core.read import is_myst_markdown_notebook

# The two parts of MathJax that the pages load: 1.5 of the package's 24 MB.
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")
ICON_FONT = re.compile(r'<link [^>]*href="https?://[^"]*/font-awesome[^"]*"[^>]*>')


def repository_url(root, environ=os.environ):
    """The repository's https address, or "" where nothing tells it.

    Looked for in BOOK_REPOSITORY_URL, then GITHUB_REPOSITORY (set by GitHub's own runners), then
    the remote of the checkout. User names and tokens inside an address are never published.
    """
    url = environ.get("BOOK_REPOSITORY_URL", "")
    if not url and environ.get("GITHUB_REPOSITORY"):
        server = environ.get("GITHUB_SERVER_URL", "https://github.com")
        url = f"{server}/{environ['GITHUB_REPOSITORY']}"
    if not url and shutil.which("git"):
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        url = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", url)
    url = re.sub(r"//[^/@]*@", "//", url).removesuffix("/").removesuffix(".git")
    return url if url.startswith("https://") else ""


def library_digest(root):
    """A name for everything the chapters' outputs depend on besides their own cells.

    Jupyter-cache compares the cells only: with one cache for all, a change in the library would
    leave the old numbers on the page.
    """
    root, digest = Path(root), hashlib.sha256()
    files = (f for f in (root / "calib").rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    for path in (*sorted(files), root / "constraints.txt"):
        content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    return digest.hexdigest()[:12]


def configure(app, config):
    """Set what the settings file cannot know."""
    build = Path(app.outdir).parent
    config.nb_execution_cache_path = str(build / ".jupyter_cache" / library_digest(app.srcdir))
    config.mathjax_path = "mathjax/tex-chtml.js"
    config.html_baseurl = os.environ.get("BOOK_SITE_URL", "")
    options = config.html_theme_options
    options["launch_buttons"] = {}  # they would open the .md sources, which no service runs
    options["navbar_persistent"] = []  # or the search field shows twice
    url = repository_url(app.srcdir)
    if url.startswith("https://github.com/"):
        branch = os.environ.get("BOOK_BRANCH", "main")
        options.update(repository_url=url, repository_branch=branch)
        options.update(use_repository_button=True, use_issues_button=True)
    else:  # no link rather than Jupyter Book's default, which is its own repository
        options.pop("repository_url", None)


def execute_side_by_side(app, env, docnames):
    """Execute the chapters that the cache does not hold, as many at once as there are processors.

    MyST-NB would execute them one after another; it finds them in the cache, and executes again
    only what failed, to tell why.
    """
    if app.config.nb_execution_mode != "cache":
        return
    paths = [Path(env.doc2path(name)) for name in docnames]
    paths = [p for p in paths if is_myst_markdown_notebook(p.read_text(encoding="utf-8"))]
    # The longest first, so that none is left alone at the end.
    paths.sort(key=lambda path: path.stat().st_size, reverse=True)
    # With a thread a chapter they do not wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def execute(path):
        cache = get_cache(app.config.nb_execution_cache_path)
        cache.add_nb_to_project(str(path), read_data={"name": "myst_nb_md", "type": "plugin"})
        executor = load_executor("local-serial", cache)
        done = executor.run_and_cache(
            filter_uris=[str(path)], timeout=app.config.nb_execution_timeout
        )
        if done.succeeded:
            print(f"executed {path.name}", flush=True)

    get_cache(app.config.nb_execution_cache_path).list_cache_records()  # made before it is shared
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(execute, paths))


def keep_page_whole(app, pagename, templatename, context, doctree):
    """Take out of a page what breaks it or asks the network for something.

    The live-code scripts, which declare their constants twice and so are a script error; and the
    icon font that matplotlib's animations link to: the theme brings the same icons.
    """

    def is_thebe(script):
        body = getattr(script, "attributes", {}).get("body") or ""
        return "thebe" in str(getattr(script, "filename", script)) or "THEBE" in body

    context["script_files"] = [s for s in context.get("script_files", []) if not is_thebe(s)]
    context["body"] = ICON_FONT.sub("", context.get("body", ""))


def copy_mathjax(app, exception):
    """Put MathJax beside the pages: formulas are set without a network, also from file://."""
    if exception or app.builder.format != "html":
        return
    for file in importlib.metadata.files("sphinx-mathjax-offline"):
        _, found, inner = file.as_posix().partition("static/mathjax/")
        if found and inner.startswith(MATHJAX):
            target = Path(app.outdir, "_static", "mathjax", inner)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target)


def setup(app):
    app.connect("config-inited", configure)
    app.connect("env-before-read-docs", execute_side_by_side)
    app.connect("html-page-context", keep_page_whole, priority=900)  # after every script is added
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
