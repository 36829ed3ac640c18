# A container that answers requests with the classifier of a run, on a processor:
#   docker build -t frostline .
#   docker run --rm -p 127.0.0.1:8000:8000 -e FROSTLINE_TOKEN -v "$PWD/runs/pets:/run/model:ro" frostline
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/frostline \
    && /opt/frostline/bin/pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && /opt/frostline/bin/pip install --no-cache-dir '.[serve]'

FROM python:3.12-slim
COPY --from=build /opt/frostline /opt/frostline
ENV PATH=/opt/frostline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FROSTLINE_OFFLINE=1 \
    MPLCONFIGDIR=/tmp \
    XDG_CACHE_HOME=/tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["frostline", "serve", "/run/model", "--host", "0.0.0.0"]
