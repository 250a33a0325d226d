"""External checkpoints: file formats, and tables of {their tensor name -> our parameter path, transform}."""
