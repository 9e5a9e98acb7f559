"""Package metadata. Install with ./install.sh or pip into a virtual environment, never into the system Python."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="nblauncher",
    version=next(
        line.split('"')[1] for line in Path("nblauncher/__init__.py").read_text().splitlines() if "__version__" in line
    ),
    description="One command turns a spreadsheet of students into a running Jupyter classroom on one Linux host",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["nblauncher", "nblauncher.*"]),
    include_package_data=True,
    package_data={
        "nblauncher": [
            *("py.typed", "web/templates/**/*", "web/static/*", "web/texts/*", "server/labextension/**/*"),
            "server/notices_extension/**/*",
            *("slips/*.html", "slips/*.txt", "slips/*.css"),
            *("commands/samples/*", "commands/samples/**/*", "frontends/*.jinja", "bin/*", "grading/similarity/page.*"),
        ]
    },
    # No console_scripts: what pip makes of them lets PYTHONPATH decide what root imports.
    scripts=["nblauncher/bin/nblauncher", "nblauncher/bin/ipython_dir"],
    install_requires=[
        "click>=8.1",
        "PyYAML>=6.0",
        "passlib>=1.7.4",
        "argon2-cffi>=21.3",
        "tornado>=6.4",
        "notebook>=7.2,<8",
        "pexpect>=4.8",
        "cryptography>=41",
        "psutil>=5.9",
        "rich>=13",
        "jinja2>=3.1",
        "segno>=1.6",
        "threadpoolctl>=3.5",
        "nbformat>=5.9",
        "packaging>=23",
        "defusedxml>=0.7",
    ],
    extras_require={
        "pdf": ["weasyprint>=68"],
        "test": [
            "weasyprint>=68",
            "pypdf>=5",
            "aiosmtpd>=1.4.6",
            "pytest>=8.1",
            "pytest-xdist>=3.6",
            "pytest-timeout>=2.3",
            "hypothesis>=6",
            "httpx>=0.25",
            "websocket-client>=1.6",
            "numpy>=1.26",
            "pandas>=2.1",
            "matplotlib>=3.8",
            "playwright>=1.40",
            "axe-playwright-python>=0.1.4",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML",
            "types-passlib",
            "types-pexpect",
            "types-psutil",
        ],
    },
    entry_points={
        "jupyter_client.kernel_provisioners": [
            "nblauncher = nblauncher.server.provisioner:ForkedKernelProvisioner",
        ],
    },
)
