FROM python:3.11-slim
WORKDIR /uniformer
COPY . .
RUN python -m pip install --no-cache-dir --constraint constraints.txt --editable .
ENV PYTHON=python
