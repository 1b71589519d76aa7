"""PDF"""
from typing import BinaryIO
from edgeslm.knowledge.passages import Document
def read_pdf(file: BinaryIO, source: str) -> Document:
    raise NotImplementedError
