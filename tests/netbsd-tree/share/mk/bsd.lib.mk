# Makes a library.
.include <bsd.own.mk>
.PATH: ${.CURDIR}
OBJS= ${SRCS:.c=.o}
CFLAGS+= ${DBG}
obj: .PHONY
	@mkdir -p ${.OBJDIR}
.include <bsd.inc.mk>
dependall: .PHONY .depend lib${LIB}.a
.depend: ${SRCS:.c=.d}
	${MKDEP} -d -f ${.TARGET} ${.ALLSRC}
.c.d:
	${MKDEP} -f ${.TARGET} -- ${CPPFLAGS} ${.IMPSRC}
.c.o:
	${CC} ${CFLAGS} ${CPPFLAGS} -c ${.IMPSRC} -o ${.TARGET}
lib${LIB}.a: ${OBJS}
	rm -f ${.TARGET}
	${AR} cr ${.TARGET} ${OBJS}
