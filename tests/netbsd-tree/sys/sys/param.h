/* A tree of release 0.99.1, which never was. */
#define	__NetBSD_Version__	99000100
