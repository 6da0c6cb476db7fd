FROM python:3.11-slim
# TRAIN.COMPILE compiles C++ on a CPU, and C against Python's headers, which this image has, on a GPU.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /uniformer
COPY . .
RUN python -m pip install --no-cache-dir --constraint constraints.txt --editable .
ENV PYTHON=python
