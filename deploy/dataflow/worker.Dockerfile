# The image of the workers: Beam's own, with kpiflow in it. From the repository's root:
#   docker build -f deploy/dataflow/worker.Dockerfile -t WORKER .
# Beam's version must be the one that submits the job; a test compares it to the installed one.
FROM apache/beam_python3.11_sdk:2.77.0

WORKDIR /kpiflow
COPY setup.py pyproject.toml README.md ./
COPY schemas schemas
COPY transforms transforms
COPY pipelines pipelines
COPY runners runners
RUN pip install --no-cache-dir ".[dataflow,objects,bigquery,timeseries]" && pip check

# Certificates for a rediss:// server, if it needs them: --redis-ca /certificates/ca.pem
# COPY certificates /certificates

# The entry point stays Beam's: /opt/apache/beam/boot.
