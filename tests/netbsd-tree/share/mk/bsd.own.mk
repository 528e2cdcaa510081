# Settings that every makefile shares.
.if !defined(_OWN_MK)
_OWN_MK= defined
.if defined(MAKECONF) && exists(${MAKECONF})
.include "${MAKECONF}"
.endif
CC= ${TOOLDIR}/bin/${MACHINE_PLATFORM}-gcc
AR= ${TOOLDIR}/bin/${MACHINE_PLATFORM}-ar
MACHINE_PLATFORM= x86_64--netbsd
DBG?= -O
.endif
