"""The distribution `kpiflow`: a Beam dataflow for agents' KPI reports, with the console script `kpiflow`."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="kpiflow",
    version="0.1.0",
    description="Validate, flag, enrich and aggregate agents' KPI reports with one Apache Beam graph",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["schemas*", "transforms*", "pipelines*", "runners*"]),
    package_data={"schemas": ["*.json"], "pipelines.summary": ["*.html"]},
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "pyarrow>=25,<26",
        "numpy>=2.4,<3",
        "orjson>=3.13,<4",
        "jsonschema>=4.26,<5",
        "zstandard>=0.25,<1",
        "pydantic>=2.14,<3",
        "pydantic-settings>=2.16,<3",
        "typer>=0.29,<1",
        "rich>=15,<16",
        "redis[hiredis]>=8,<9",
        "stamina>=26,<27",
        "prometheus-client>=0.26,<0.27",
        "duckdb>=2,<3",
    ],
    extras_require={
        "html": ["altair>=6.3,<7", "jinja2>=3.1,<4", "vl-convert-python>=1.9,<3"],
        "objects": ["obstore>=0.12,<0.13", "boto3>=1.40,<2"],
        "bigquery": ["google-cloud-bigquery>=3.47,<4", "google-cloud-bigquery-storage>=2.43,<3"],
        "timeseries": ["httpx>=0.28,<0.29"],
        "dataflow": ["apache-beam[gcp]>=2.77,<2.78"],
        "docs": ["mkdocs-material>=9.8,<10", "mkdocstrings[python]>=1,<2"],
        "dev": [
            "pytest>=8,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.170,<7",
            "pandas>=3.1,<4",
            "pandas-stubs",
            "pre-commit>=4,<5",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "types-jsonschema",
            "types-protobuf",
            "types-grpcio",
            "types-PyYAML",
            "moto[s3,server]>=5.2,<6",
            "influxdb-client>=1.50,<2",
            "polars>=2.1,<3",
        ],
    },
    entry_points={"console_scripts": ["kpiflow=pipelines.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: System :: Monitoring",
    ],
)
