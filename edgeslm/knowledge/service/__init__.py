"""The knowledge process: searches, watched folders, remembered messages, quarantine."""
