# `make` lists the targets. Needed: Python 3.11, make, git.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed
PAGE := _build/html/index.html
CPU_TORCH := https://download.pytorch.org/whl/cpu/

# Sets print in one order; a debugger's notice stays off the terminal; a path with an umlaut is written
# into .venv's scripts as it is, whatever the language.
export PYTHONHASHSEED := 0
export PYTHONUTF8 := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# glibc keeps one heap and gives back what is large: less memory at the peak. Giving back every
# little piece (65536) would save a tenth more, and cost as much time in the kernel as the sums do.
export MALLOC_ARENA_MAX := 1
export MALLOC_MMAP_THRESHOLD_ := 16777216
export MALLOC_TRIM_THRESHOLD_ := 33554432

# --all: Sphinx repeats no warning of a page that it does not write again.
BUILD := $(BIN)/jupyter-book build . --all --quiet -W -n --keep-going

.DEFAULT_GOAL := help
.PHONY: help book bench lab test long html pdf seeds notebooks lint release clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

book: notebooks ## execute every chapter, then build the pages
	@$(MAKE) --no-print-directory html
	@$(BIN)/python book/running.py

# What the builders say is kept in a file, and shown where they fail.
html: $(INSTALLED) ## build the pages from the stored outputs (a minute)
	@echo "Building the pages from the stored chapters: about a minute."
	@mkdir -p _build; $(BUILD) > _build/html.log 2>&1 || { cat _build/html.log; exit 1; }
	@$(BIN)/python book/next.py $(PAGE)

pdf: html ## print the built pages into one PDF, by Chromium or Chrome (half a minute)
	$(BIN)/python book/pdf.py

# The limit that both studies ask for; then two at once, on one thread each; then what asks for both
# studies. What the cache holds was made by this very library, or it is not found (chapter 8): the
# second call returns at once. What it takes is kept for the page on running.
RUN := $(BIN)/python -c "from ibvonns.paper.baselines import trained_baseline as baseline; \
	from ibvonns.paper.beyond import NEW, scores; \
	from ibvonns.paper.beyond import trained as turned; \
	from ibvonns.paper.claims import FEW, claims; \
	from ibvonns.paper.floors import truth_scores as truth; \
	from ibvonns.paper.gases import trained; \
	from ibvonns.paper.limits import entropy_limits; \
	from ibvonns.paper.results import result; \
	from ibvonns.paper.studies import STUDIES; \
	from ibvonns_book.information import trained_without_density;
TOOK := $(BIN)/python book/running.py
seeds: $(INSTALLED) ## train what the chapters read into the cache: sixteen to forty minutes, or nothing to do
	@echo "Training what the cache has not from this very library: all of it takes sixteen to forty minutes."
	@$(TOOK) 'the entropy limit' $(RUN) entropy_limits(STUDIES['chain-gmm'])"
	@export OMP_NUM_THREADS=1; \
	$(TOOK) 'mixture, strains alone, truth of the trap' \
		$(RUN) result('chain-gmm'); baseline('strain-only'); truth('trap')" & other=$$!; \
	$(TOOK) 'flow, neural ODE' $(RUN) result('chain-cnf'); baseline('neural-ode')" && \
	$(TOOK) 'trap without its density' $(RUN) trained_without_density()"; mine=$$?; \
	wait $$other && exit $$mine
	@export OMP_NUM_THREADS=1; \
	{ $(TOOK) 'truth of the chain' $(RUN) truth('chain-gmm')" && \
	$(TOOK) 'gases that repel and of long reach' $(RUN) trained('repelling'); trained('long')"; } & other=$$!; \
	$(TOOK) 'gas that attracts, with less data and without fluctuations' $(RUN) trained('attracting'); \
		trained('attracting', fluctuations=False); \
		[trained('attracting', fluctuations=each, fewer=FEW) for each in (True, False)]"; mine=$$?; \
	wait $$other && exit $$mine
	@$(TOOK) 'claims of Stat-PINNs' $(RUN) claims()"
	@export OMP_NUM_THREADS=1; \
	$(TOOK) 'laws of pulls that turn round, two variables' $(RUN) turned('turning, two'); scores(['paper'])" & other=$$!; \
	$(TOOK) 'laws of pulls that turn round' $(RUN) turned(NEW)"; mine=$$?; \
	wait $$other && exit $$mine
	@$(TOOK) 'scores of turning pulls' $(RUN) scores(['paper', NEW])"

# Two chapters at once, the longest, the last, first.
notebooks: seeds ## execute every chapter: notebooks/*.md -> *.ipynb
	ls -r notebooks/[0-9]*.md | xargs -n 1 -P 2 $(BIN)/python notebooks/execute.py -q
	$(BIN)/python book/picture.py
	$(BIN)/python book/drawings.py
	$(BIN)/python book/landing.py measure

lab: $(INSTALLED) ## open the chapters in JupyterLab, to change and run them
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[lab]'
	$(BIN)/jupyter lab notebooks

# Caches of its own: the first calls compile.
bench: $(INSTALLED) ## measure the engines and redraw the page on speed (some minutes)
	$(BIN)/pip install --quiet -c constraints.txt -e .[bench]
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh" book/bench.json.tmp' EXIT; \
	export NUMBA_CACHE_DIR=$$fresh TORCHINDUCTOR_CACHE_DIR=$$fresh; \
	$(BIN)/python benchmarks/engines.py --json > book/bench.json.tmp && mv book/bench.json.tmp book/bench.json
	$(BIN)/python book/speed.py

# The chapters from the last on: it takes the longest.
test: html seeds ## the library's tests, every stored number, and the pages in a browser
	$(BIN)/python book/pdf.py --if-possible
	$(BIN)/pytest -n 2 --doctest-modules ibvonns ibvonns_book tests
	$(BIN)/pytest -n 2 --nbval $$(ls -r notebooks/*.ipynb) notebooks/test_in_step.py

long: $(INSTALLED) ## what takes minutes more: the second law at ten million states, thirty kills, mutants
	$(BIN)/pytest -m long tests/test_long.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/mutants.py

lint: $(INSTALLED) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# It needs no .venv: its tools and its trials have environments of their own.
release: ## build sdist and wheel into dist/, check them, run the quick start on Python 3.11 to 3.13
	$(PYTHON) tests/release.py

clean: ## remove what was built and installed
	rm -rf _build dist .venv *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# PyPI's PyTorch for Linux carries several GB of CUDA that this book has no use for. Where PyTorch's
# own index answers, its CPU build is preferred; where it does not, PyPI's build is taken.
ANSWERS := import urllib.request as u; u.urlopen('$(CPU_TORCH)', timeout=5)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: none found." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: " + sys.version)'
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@index=; \
	if [ "$$(uname -s)" = Linux ] && $(BIN)/python -c "$(ANSWERS)" 2>/dev/null; \
	then index="--extra-index-url $(CPU_TORCH)"; fi; \
	echo "Installing packages into .venv: 2 GB, two to twenty minutes, once. The details: .venv/install.log"; \
	$(BIN)/python book/quietly.py .venv/install.log $(BIN)/python -m pip install --progress-bar off -c constraints.txt $$index -e '.[book,test]'
	@touch $@
