"""The process of the collections: searches, watched folders, remembered messages, quarantine."""
