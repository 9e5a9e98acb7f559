.PHONY: check test test-system test-browser bench install

check: ## lint, types and the tests that need no root: seconds
	./run-tests.sh check

test: ## everything
	./run-tests.sh

test-system: ## real accounts and servers; as root
	./run-tests.sh system

test-browser: ## Chromium; as root
	./run-tests.sh browser

bench: install ## the tables of benchmarks/; as root
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; /opt/nblauncher/current/bin/python "$$script"; done

install: ## install or upgrade nblauncher on this machine; as root
	./install.sh
