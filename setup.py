"""Package metadata. The lower bounds are those of `constraints-lowest.txt`, see CONTRIBUTING.md."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithRecipes(build_py):
    """Build the package with the config files of `configs/` and `exp/` in `slowfast/recipes`."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return  # the checkout has them
        for source, copy in self._recipes().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return the paths of all files that are built."""
        return [*super().get_outputs(include_bytecode), *map(str, self._recipes().values())]

    def _recipes(self) -> dict[Path, Path]:
        folder = Path(self.build_lib, "slowfast/recipes")
        files = [path for name in ("configs", "exp") for path in ROOT.glob(f"{name}/**/*.yaml")]
        return {path: folder / path.relative_to(ROOT) for path in sorted(files)}


setup(
    name="slowfast-uniformer",
    version="0.1.0",
    description="Train and test UniFormer video classifiers on Kinetics and Something-Something",
    license="Apache-2.0",
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithRecipes},
    entry_points={"console_scripts": ["slowfast = slowfast.commands.main:run"]},
    packages=find_packages(include=["slowfast", "slowfast.*"]),
    package_data={
        "slowfast.utils": ["class_tables/*.txt"],
        "slowfast.models": ["zoo.yaml"],
        "slowfast.sharing": ["model_card.md"],
        "slowfast.serving": ["page.css"],
        "slowfast.evaluation": ["compare_template.html"],
        "slowfast.evaluation.report": ["*.html", "page.css", "page.js"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
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
        "MarkupSafe>=2.1",
        "matplotlib>=3.8",
    ],
    extras_require={
        "export": [
            "onnx>=1.18",
            "onnxscript>=0.6.0",
            "onnxruntime>=1.22",
        ],
        "trackers": [
            "wandb>=0.31.0",
            "mlflow-skinny>=3.17.2",
            "sqlalchemy>=2.1.9",
            "alembic>=1.20.1",
            "trackio>=0.43.0",
        ],
        "demo": [
            "gradio>=6.31.0",
            "fastapi>=0.162.5",
            "starlette>=1.7.0",
            "uvicorn>=0.54.0",
            "python-multipart>=0.0.32",
        ],
        "dev": [
            "slowfast-uniformer[export]",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "setuptools>=70.1",
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
