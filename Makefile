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
.PHONY: help book html library notebooks colab chapters lowest ndif links test benchmarks dist clean

help:
	@echo "make book    compute every chapter and write the book to _build/html"
	@echo "make test    check the style, the library, the book and its pages"
	@echo "make library check the library alone; models on a GPU, too, where there is one"
	@echo "make notebooks run every chapter's notebook where only the library is installed"
	@echo "make colab   run them with the versions that Colab has (TORCH=2.11.0: with its torch, too)"
	@echo "make chapters run every chapter's cells on a device apart from the CPU: the printed numbers"
	@echo "make lowest  run the library's tests with the lowest versions that it allows"
	@echo "make ndif    run the tests of NDIF against its real server, on this machine's CPU"
	@echo "make links   follow every link that leads out of the book"
	@echo "make benchmarks MMLU=folder    measure speed and memory, some 30 minutes"
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

# notebooks, colab and lowest make an environment in _build, with the library and little else.
NOTEBOOKS = bin/jupyter-execute --timeout=600 _build/html/notebooks/*.ipynb
# Of the two with older versions: tests/environments/colab.txt says why their torch is not older.
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)

# $(call environment,NAME,COMMAND): _build/NAME, with the versions that the command prints.
# Not --quiet: pip would not say which of them cannot go together.
define environment
"$(PYTHON)" -m venv --clear _build/$(1)
$(2) > _build/$(1)/listed.txt
sed 's/^torch==.*/torch==$(TORCH)/' _build/$(1)/listed.txt > _build/$(1)/versions.txt
_build/$(1)/bin/python -m pip install --progress-bar off -r _build/$(1)/versions.txt
endef

# With the versions of the tests, and nothing else.
notebooks: book
	"$(PYTHON)" -m venv --clear _build/bare
	_build/bare/bin/python -m pip install --quiet -c constraints.txt . ipykernel nbclient
	_build/bare/$(NOTEBOOKS)

# The library comes last, as in the notebooks' first cell, and has to leave all versions alone.
colab: book
	$(call environment,colab,cat tests/environments/colab.txt)
	_build/colab/bin/python -m pip freeze > _build/colab/before.txt
	_build/colab/bin/python -m pip install --quiet .
	_build/colab/bin/python -m pip freeze > _build/colab/after.txt
	@! diff _build/colab/before.txt _build/colab/after.txt | grep '^<' || { \
	  echo "Installing the library has changed these versions of Colab's." >&2; exit 1; }
	_build/colab/$(NOTEBOOKS)

chapters: book
	$(VENV)/bin/python -m pytest -m weekly -n 2 tests/book

lowest:
	$(call environment,lowest,"$(PYTHON)" tests/environments/versions.py lowest)
	_build/lowest/bin/python -m pip install --quiet -c _build/lowest/versions.txt \
	  -e . pytest pytest-xdist hypothesis tornado beautifulsoup4
	_build/lowest/bin/python -m pytest tests calib --ignore=tests/book \
	  -n 2 --dist loadfile --no-loadscope-reorder

# NDIF's real server (tests/environments/ndif/run.py says what it takes), with its models next to the
# weights and in its sandbox. It asks for Python 3.12 and uses nothing that 3.11 lacks.
NDIF := _build/ndif/venv
$(NDIF)/.installed: tests/environments/ndif/requirements.txt tests/environments/ndif/wheel.txt constraints.txt
	"$(PYTHON)" -m venv --clear $(NDIF)
	$(NDIF)/bin/python -m pip install --progress-bar off -r tests/environments/ndif/requirements.txt \
	  $$(grep -E '^(torch|nnsight|transformers|accelerate)==' constraints.txt)
	$(NDIF)/bin/python -m pip install --quiet --no-deps --ignore-requires-python --require-hashes \
	  -r tests/environments/ndif/wheel.txt
	@touch $@

ndif: $(STAMP) $(NDIF)/.installed
	PYTHONPATH=tests $(VENV)/bin/python tests/environments/ndif/run.py \
	  $(VENV)/bin/python -m pytest tests/models/test_ndif.py

links: book
	$(VENV)/bin/python -c 'from jupyter_book.cli.main import main; main()' \
	  build . --builder linkcheck

test: $(STAMP)
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

library: $(STAMP)
	$(VENV)/bin/python -m pytest tests calib --ignore=tests/book \
	  -n 2 --dist loadfile --no-loadscope-reorder

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
	$(VENV)/bin/python benchmarks/processes.py "$(MMLU)"

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
