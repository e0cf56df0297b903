"""nbval as this book needs it."""

import settled  # noqa: F401
