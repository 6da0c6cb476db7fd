"""Package metadata. The lower bounds are those of `constraints-lowest.txt`, see CONTRIBUTING.md."""

from setuptools import find_packages, setup

setup(
    name="slowfast-uniformer",
    version="0.1.0",
    description="Train and test UniFormer video classifiers on Kinetics and Something-Something",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["slowfast", "slowfast.*"]),
    package_data={
        "slowfast.utils": ["class_tables/*.txt"],
        "slowfast.models": ["zoo.yaml"],
        "slowfast.evaluation": ["compare_template.html"],
        "slowfast.evaluation.report": ["*.html", "page.css", "page.js"],
    },
    install_requires=[
        "torch>=2.14.1",
        "torchvision>=0.29.1",
        "numpy>=1.26",
        "av>=17.0.1",
        "pillow>=10.0",
        "numba>=0.60",
        "pyarrow>=18.0",
        "fvcore>=0.1.5.post20221221",
        "yacs>=0.1.8",
        "iopath>=0.1.10",
        "pyyaml>=6.0",
        "timm>=1.0.9",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.26",
        "simplejson>=3.19",
        "tensorboard>=2.14",
        "tqdm>=4.66",
        "submitit>=1.5.4",
        "Jinja2>=3.1.2",
        "matplotlib>=3.8",
    ],
    extras_require={
        "dev": [
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "scipy>=1.15",
            "scikit-learn>=1.5",
            "torchmetrics>=1.4",
            "selenium>=4.20",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-simplejson",
            "types-PyYAML",
        ],
    },
)
