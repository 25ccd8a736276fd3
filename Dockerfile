# saescope in one container; the workspace is the volume /data.
#
#   docker build -t saescope .
#   docker run -p 8000:8000 -v saescope:/data -e SAESCOPE_ADMIN_PASSWORD=... saescope   # later without the password
#
# Build arguments:
#   TORCH_INDEX_URL  a package index to take torch from, such as one with CPU-only builds (smaller)
#                    or with the CUDA build you need; empty: pip's own
#   EXTRAS           extras of the project, such as "postgres"
FROM python:3.11-slim

ARG TORCH_INDEX_URL=""
ARG EXTRAS=""

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /srv/saescope

# The large, rarely changing part first, so that a change of code does not install it again.
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      pip install --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' constraints.txt)"; \
    else pip install -c constraints.txt torch; fi

COPY pyproject.toml README.md LICENSE NOTICE alembic.ini ./
COPY sae ./sae
COPY app ./app
COPY templates ./templates
COPY static ./static
COPY migrations ./migrations
RUN pip install -c constraints.txt -e ".${EXTRAS:+[$EXTRAS]}"

# The Hugging Face hub is left alone unless HF_HUB_OFFLINE=0 is given at run time.
ENV HOST=0.0.0.0 \
    PORT=8000 \
    SAESCOPE_HOME=/data \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/data/.huggingface

RUN useradd --create-home --uid 1000 saescope && mkdir /data && chown saescope /data
USER saescope
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD \
  ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]

CMD ["saescope", "serve"]
