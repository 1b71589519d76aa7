"""What a site's broker and its clients need to trust each other: keys, access list, settings."""
