# `make help` says what there is to do. Only relative paths below: the folder may have spaces.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# What runs the build; the tests put their own interpreter here.
RUN ?= $(VENV)/bin/python

# Everything the book needs comes with the repository: nothing is asked of the model hub, and no
# progress bar, nor the warning that there is no widget for one, ends up on a page. (With ipywidgets
# installed, pages would ask the network for its scripts.)
export HF_HUB_OFFLINE := 1
export PYTHONWARNINGS := ignore:IProgress not found
export TOKENIZERS_PARALLELISM := false
export TQDM_DISABLE := 1
export PYTHONHASHSEED := 0

.DEFAULT_GOAL := help
.PHONY: help book html notebooks links test benchmarks dist clean

help:
	@echo "make book    compute every chapter and write the book to _build/html"
	@echo "make test    check the style, the library, the book and its pages"
	@echo "make notebooks run every chapter's notebook where only the library is installed"
	@echo "make links   follow every link that leads out of the book"
	@echo "make benchmarks MMLU=folder    measure speed and memory, some 20 minutes"
	@echo "make dist    what is published: a wheel and a source archive in dist (TAG=v1.2.3 checks the version)"
	@echo "make clean   delete the built book, its cache and the virtual environment"
	@echo "make help    show this text"
	@echo
	@echo "The first two install what they need into $(VENV); this takes some minutes, once."
	@echo "They need Python 3.11 or newer; to say which: make book PYTHON=python3.12"

# Again only when the requirements have changed.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "No Python called $(PYTHON) was found. Install Python 3.11 or newer, or name" \
	    "yours: make book PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "calib needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." \
	    "Name a newer one: make book PYTHON=python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[book,test]'
	@touch $(STAMP)

book: $(STAMP) html
	@echo "The book is ready: open _build/html/index.html"

# --all: a page that failed to build is not taken for done the next time (computed cells are kept).
# -W -n --keep-going: any warning fails the build, and all of them are shown.
html:
	"$(RUN)" -c 'from jupyter_book.cli.main import main; main()' \
	  build . --all -W -n --keep-going

# As on Colab: an environment with the library, what runs a notebook, and nothing else.
notebooks: book
	"$(PYTHON)" -m venv --clear _build/bare
	_build/bare/bin/python -m pip install --quiet -c constraints.txt . ipykernel nbclient
	_build/bare/bin/jupyter-execute --timeout=300 _build/html/notebooks/*.ipynb

links: book
	$(VENV)/bin/python -c 'from jupyter_book.cli.main import main; main()' \
	  build . --builder linkcheck

test: $(STAMP)
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

benchmarks: $(STAMP)
	@test -d "$(MMLU)" || { \
	  echo "Say where MMLU lies, in the layout of cais/mmlu: make benchmarks MMLU=folder" >&2; exit 1; }
	$(VENV)/bin/python benchmarks/metrics.py
	$(VENV)/bin/python benchmarks/reading.py "$(MMLU)"
	$(VENV)/bin/python benchmarks/fewshot.py "$(MMLU)"
	$(VENV)/bin/python benchmarks/branches.py "$(MMLU)"
	$(VENV)/bin/python benchmarks/ablation.py "$(MMLU)"
	$(VENV)/bin/python benchmarks/sampling.py "$(MMLU)"
	$(VENV)/bin/python benchmarks/memory.py "$(MMLU)"

# The version stands in calib/__init__.py alone; a tag that says another is a mistake.
dist: $(STAMP)
	@version=$$($(VENV)/bin/python -c 'import calib; print(calib.__version__)'); \
	test "$(or $(TAG),v$$version)" = "v$$version" || { \
	  echo "The tag is $(TAG), the version in calib/__init__.py $$version." >&2; exit 1; }
	rm -rf dist
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt build
	$(VENV)/bin/python -m build --outdir dist

clean:
	rm -rf _build dist $(VENV)
