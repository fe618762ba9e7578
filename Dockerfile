# Jumpscope's app in a container: the README's two commands, without root.
#
#   docker build -t jumpscope .
#   docker run --rm -p 127.0.0.1:7860:7860 jumpscope
#
# For a CUDA device, take PyTorch's CUDA build (and give the container the device with --gpus all):
#
#   docker build --build-arg TORCH_BUILD=cu130 -t jumpscope:cuda .

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_BUILD=cpu
RUN python -m venv /opt/jumpscope
ENV PATH=/opt/jumpscope/bin:$PATH
WORKDIR /src
COPY . .
# PyTorch keeps one index of wheels per build; everything else comes from where pip always looks.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH_BUILD}
RUN pip install --no-cache-dir -c constraints.txt '.[app]'

FROM python:${PYTHON_VERSION}-slim
RUN useradd --create-home --uid 10001 jumpscope
COPY --from=build /opt/jumpscope /opt/jumpscope
ENV PATH=/opt/jumpscope/bin:$PATH \
    JUMPSCOPE_HOST=0.0.0.0 \
    JUMPSCOPE_OPEN_BROWSER=0
USER jumpscope
WORKDIR /home/jumpscope
EXPOSE 7860
# Ctrl-C's signal, on which the app closes at once.
STOPSIGNAL SIGINT
# Any answer will do: with --auth it is a question for the password.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 7860, timeout=4); c.request('HEAD', '/'); c.getresponse()"]
ENTRYPOINT ["jumpscope"]
CMD ["demo"]
