"""Teaching: labels messages and trains heads on them with ``edgeslm-export``, in processes of its own."""
