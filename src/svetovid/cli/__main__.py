"""``python -m svetovid.cli``: the command line where no script is installed."""

from svetovid.cli.main import main

if __name__ == "__main__":
    main()
