"""What Berth's plugins share: plain Python, imported as ``ansible.module_utils.berth``."""
