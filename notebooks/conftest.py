"""For `pytest --nbval notebooks`: kernels start as execute.py starts them."""

import os

os.environ["PYTHONHASHSEED"] = "0"  # sets print in one order
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
