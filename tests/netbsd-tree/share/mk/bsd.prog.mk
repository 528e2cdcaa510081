# Makes a program.
.include <bsd.own.mk>
.PATH: ${.CURDIR}
dependall: .PHONY ${PROG}
${PROG}: ${PROG}.c
	${CC} ${CFLAGS} ${CPPFLAGS} ${LDFLAGS} ${.ALLSRC} -o ${.TARGET} ${LDADD}
install: .PHONY
	cp ${PROG} ${DESTDIR}/usr/bin
