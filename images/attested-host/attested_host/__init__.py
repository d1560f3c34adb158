"""The recipe of the attested host image: locked packages in, a disk image and its reference values
out. docs/adr/0019-attested-host-image.md says why it is as it is."""
