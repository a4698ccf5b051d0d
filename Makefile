# Two commands are enough: `make run` and `make test`. They need Python 3.11 to 3.13, make and the Python index.
# What they install goes to .venv, from lock files with hashes; what they run keeps its data in .turnkeeper.

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
# Another interpreter: make run PYTHON=/opt/python3.12/bin/python3
PYTHON ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

# Found by running them: a name on the path (a pyenv shim, say) need not be a Python that works.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv run test check docs-check site format lock bench chaos clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(PY):
	@for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
		if "$$candidate" -c '$(USABLE)' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: no Python 3.11, 3.12 or 3.13 with venv and ensurepip was found$(if $(PYTHON), at $(PYTHON))." >&2; \
		echo "make: install one (Debian: apt install python3-venv), or name one: make run PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV)

# Installed once, and again when a lock or the project's own list changes.
$(VENV)/.installed-run: requirements.lock pyproject.toml clients/python/pyproject.toml | $(PY)
	@echo "installing Python packages into $(VENV), from requirements.lock (about a minute, once)"
	@$(PY) -m pip install --quiet --require-hashes -r requirements.lock
	@echo "installing turnkeeper and its Python client into $(VENV), from this folder"
	@$(PY) -m pip install --quiet --no-index --no-deps --no-build-isolation --editable clients/python --editable .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml clients/python/pyproject.toml | $(PY)
	@echo "installing Python packages into $(VENV), from requirements-dev.lock (a minute or two, once)"
	@$(PY) -m pip install --quiet --require-hashes -r requirements-dev.lock
	@echo "installing turnkeeper and its Python client into $(VENV), from this folder"
	@$(PY) -m pip install --quiet --no-index --no-deps --no-build-isolation --editable clients/python --editable .
	@touch $@ $(VENV)/.installed-run

venv: $(VENV)/.installed-dev  ## build .venv with everything that developing needs

run: $(VENV)/.installed-run  ## run everything here: make run ARGS="--port 9000 --worker 2"
	@exec $(VENV)/bin/turnkeeper up $(ARGS)

# All tests run in two workers, unless ARGS names some of them or another number (-n 4).
test: $(VENV)/.installed-dev  ## run the tests: make test ARGS="tests/unit -x"
	$(PY) -m pytest $(if $(filter-out -%,$(ARGS)),,-n 2) $(ARGS)

check: $(VENV)/.installed-dev docs-check  ## lint, formatting, types, imports and generated pages
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

docs-check: $(VENV)/.installed-dev  ## fail when a generated page is not what the code says
	$(PY) -m turnkeeper.reference --check

site: $(VENV)/.installed-dev  ## build the documentation as a site, in build/site
	$(PY) -m mkdocs build --quiet --strict

format: $(VENV)/.installed-dev  ## format the code and mend what can be mended
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

LOCK = echo setuptools | $(PY) -m uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --upgrade pyproject.toml -
lock: $(VENV)/.installed-dev  ## resolve the newest allowed versions into the lock files
	$(PY) -m pip install --quiet uv
	$(LOCK) --output-file requirements.lock
	$(LOCK) --extra otel --extra sentry --output-file requirements-image.lock
	$(LOCK) --extra otel --extra sentry --group dev --output-file requirements-dev.lock
	for group in audit prices; do \
		$(PY) -m uv pip compile --quiet --no-emit-index-url --universal --python-version 3.11 --generate-hashes \
			--no-header --no-annotate --upgrade --group "$$group" --output-file "requirements-$$group.lock" || exit 1; \
	done

bench: $(VENV)/.installed-dev  ## measure what docs/explanation/figures.md says: make bench ARGS="..."
	$(PY) -m bench $(ARGS)

TURNS ?= 1000
SEED ?= 1
chaos: $(VENV)/.installed-dev  ## kill, stop and restart everything under load: make chaos TURNS=10000 SEED=1 ARGS="--every 2"
	$(PY) -m tests.soak.chaos --turns $(TURNS) --seed $(SEED) $(ARGS)

clean:  ## remove what was built; the data in .turnkeeper stays
	rm -rf $(VENV) build dist *.egg-info clients/python/build clients/python/src/*.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

.PHONY: faults model proofs
faults: $(VENV)/.installed-dev  ## one test for each row of the fault matrix: long
	$(PY) -m pytest tests/faults -m "soak or not soak" $(ARGS)

PROOFS ?= doorbells flushes outage deaths failover money
proofs: $(VENV)/.installed-dev  ## prove what takes a thousand turns, about 25 minutes: make proofs PROOFS=outage ARGS="--turns 50"
	@set -e; for proof in $(PROOFS); do $(PY) -m tests.soak.proofs $$proof $(ARGS); done

model:  ## search the model of a turn for a way to break it; needs spin and gcc
	docs/model/check.sh

.PHONY: fuzz-tenancy
OPERATIONS ?= 1000000
fuzz-tenancy: $(VENV)/.installed-dev  ## two organizations on one connection, at random: make fuzz-tenancy OPERATIONS=1000000 SEED=1
	$(PY) -m tests.soak.tenancy --operations $(OPERATIONS) --seed $(SEED)

.PHONY: upgrade
upgrade: $(VENV)/.installed-dev  ## an older release beside this one, as during a deploy: make upgrade FROM=v0.2.0
	$(PY) -m tests.soak.upgrade --from $(or $(FROM),$(error name a tag or commit: make upgrade FROM=v0.2.0))

.PHONY: fuzz-api
MINUTES ?= 10
fuzz-api: $(VENV)/.installed-dev  ## call the API as its OpenAPI page says, and as it does not: make fuzz-api MINUTES=10 SEED=1
	$(PY) -m tests.soak.api --minutes $(MINUTES) --seed $(SEED)

# In an environment of their own: what looks at the packages is none of them.
AUDIT := $(VENV)/audit
$(AUDIT)/.installed: requirements-audit.lock | $(PY)
	$(PY) -m venv --clear $(AUDIT)
	@echo "installing what audits the packages into $(AUDIT)"
	@$(AUDIT)/bin/python -m pip install --quiet --require-hashes -r requirements-audit.lock
	@touch $@

.PHONY: audit sbom
# Where advisories come from: pypi or osv.
AUDIT_SERVICE ?= pypi
# Strict: a package that could not be looked up is not a package without faults.
audit: $(AUDIT)/.installed  ## known vulnerabilities of what is locked, and faults of the workflow; needs PyPI
	$(AUDIT)/bin/zizmor --offline --no-progress --quiet .github/workflows
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--vulnerability-service $(AUDIT_SERVICE) \
		-r requirements-image.lock -r requirements-dev.lock -r requirements-audit.lock -r requirements-prices.lock || { \
		echo "make: nothing was audited, unless vulnerabilities are listed above. Advisories come from $(AUDIT_SERVICE):" \
			"https://pypi.org/pypi/NAME/VERSION/json, or https://api.osv.dev with AUDIT_SERVICE=osv;" \
			"a mirror that has packages alone answers neither" >&2; exit 1; }

sbom: build/turnkeeper.cdx.json  ## what a release consists of, as CycloneDX: build/turnkeeper.cdx.json
build/turnkeeper.cdx.json: $(AUDIT)/.installed requirements-image.lock pyproject.toml
	@mkdir -p $(@D)
	$(AUDIT)/bin/python -W ignore -m cyclonedx_py requirements requirements-image.lock --pyproject pyproject.toml \
		--spec-version 1.6 --validate --output-reproducible --of JSON -o $@

PRICES := $(VENV)/prices
$(PRICES)/.installed: requirements-prices.lock | $(PY)
	$(PY) -m venv --clear $(PRICES)
	@echo "installing the maintained list of prices into $(PRICES)"
	@$(PRICES)/bin/python -m pip install --quiet --require-hashes -r requirements-prices.lock
	@touch $@

.PHONY: prices-check
prices-check: $(PRICES)/.installed  ## compare shared/money/prices.toml with genai-prices; `make lock` takes its newest list
	@$(PRICES)/bin/python -m turnkeeper.reference.price_list

.PHONY: page-vendor
page-vendor:  ## copy what the page has of others from the npm registry, by page-vendor/package-lock.json; needs Node 20
	cd page-vendor && npm ci --ignore-scripts --no-audit --no-fund
	node page-vendor/copy.mjs

.PHONY: client-types
client-types:  ## write the declarations of the JavaScript client, by clients/javascript/compilers/package-lock.json
	cd clients/javascript/compilers && npm ci --ignore-scripts --no-audit --no-fund
	node clients/javascript/compilers/declare.mjs

.PHONY: screenshots
screenshots: $(VENV)/.installed-dev  ## make the pictures in docs/images, by the tests that look at them
	SCREENSHOTS=1 $(PY) -m pytest tests/browser/test_page_looks.py

.PHONY: released
released: $(VENV)/.installed-dev  ## write the rows that a release's database holds, for later upgrades: make released VERSION=0.3.0
	$(PY) -m tests.soak.released $(or $(VERSION),$(error name the version: make released VERSION=0.3.0))
