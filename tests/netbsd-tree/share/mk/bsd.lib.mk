# Makes a library: an archive, or a shared library where MKPIC says so.
.include <bsd.own.mk>
.PATH: ${.CURDIR}
CFLAGS+= ${DBG}
obj: .PHONY
	@mkdir -p ${.OBJDIR}
.include <bsd.inc.mk>
.if ${MKPIC:Uno} == "yes"
OBJS= ${SRCS:.c=.pico}
_LIBRARY= lib${LIB}.so
.else
OBJS= ${SRCS:.c=.o}
_LIBRARY= lib${LIB}.a
.endif
dependall: .PHONY .depend ${_LIBRARY}
.depend: ${SRCS:.c=.d}
	${MKDEP} -d -f ${.TARGET} ${.ALLSRC}
.c.d:
	${MKDEP} -f ${.TARGET} -- ${CPPFLAGS} ${.IMPSRC}
.c.o:
	${CC} ${CFLAGS} ${CPPFLAGS} -c ${.IMPSRC} -o ${.TARGET}
.c.pico:
	${CC} ${CFLAGS} ${CPPFLAGS} -fPIC -c ${.IMPSRC} -o ${.TARGET}
lib${LIB}.a: ${OBJS}
	rm -f ${.TARGET}
	${AR} cr ${.TARGET} ${OBJS}
lib${LIB}.so: ${OBJS}
	${CC} -shared ${LDFLAGS} -o ${.TARGET} ${OBJS}
install: .PHONY
	cp ${_LIBRARY} ${DESTDIR}/usr/lib
