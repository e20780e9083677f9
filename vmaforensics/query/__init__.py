"""What else would you like to know? SQL over the tables of images and saved documents."""

from __future__ import annotations
