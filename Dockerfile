# One image, three commands: runs-service, executor-service and runs-gateway.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock ./
# Everything the lock names, checked against its hashes; the next steps install from these files and nothing else.
RUN pip wheel --quiet --no-deps --require-hashes --requirement requirements.lock --wheel-dir /wheels
COPY pyproject.toml README.md ./
COPY gen gen
COPY client client
COPY servicekit servicekit
COPY runs_service runs_service
COPY executor_service executor_service
COPY gateway gateway
COPY runs_client runs_client
COPY devstack devstack
COPY examples examples
RUN pip wheel --quiet --no-deps --no-index --find-links /wheels --wheel-dir /wheels ./client .
# Only what the services need of those wheels; the lock has the tools of developers, too.
RUN python -m venv /app && /app/bin/pip install --quiet --no-index --find-links /wheels "playbook-runs[otel]"

FROM python:3.13-slim
RUN useradd --system --no-create-home --uid 10001 playbook-runs
COPY --from=build /app /app
# The file system may be read-only, and what is imported was compiled when it was installed.
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes sees that it is not root (runAsNonRoot).
USER 10001
EXPOSE 50051 50052 8080
CMD ["runs-service"]
