// node_modules/preact/dist/preact.mjs
var e, t, n, r, i, a, o, s, c, l, u, d = Symbol.for("pv"), f = {}, p = [], m = /^m(i|n|o|s|text|space)$/, h = Array.isArray, g = p.slice, _ = Object.assign;
function v(e) {
	e && e.parentNode && e.remove();
}
function y(n, r, i, a, o) {
	var s = {
		type: n,
		props: r,
		key: i,
		ref: a,
		__k: null,
		__: null,
		__b: 0,
		__e: null,
		__c: null,
		constructor: d,
		__v: o || ++t,
		__i: -1,
		__u: 0
	};
	return !o && e.vnode && e.vnode(s), s;
}
function b(e) {
	return e.children;
}
function x(e, t) {
	this.props = e, this.context = t, this.__g = 0;
}
function S(e, t) {
	if (t == null) return e.__ && S(e.__, e.__i + 1);
	for (var n; t < e.__k.length; t++) if ((n = e.__k[t]) && n.__e) return n.__e;
	return typeof e.type != "function" || e.props.__P ? null : S(e);
}
function C(t) {
	var n, r = t.__v, i = r.__e, a = [], o = [], s = t.__P;
	s && ((n = _({ constructor: d }, r)).__v = r.__v + 1, e.vnode && e.vnode(n), O(s, n, r, t.__n, s.namespaceURI, 32 & r.__u ? [i] : null, a, i || S(r), 32 & r.__u, o), n.__v = r.__v, n.__.__k[n.__i] = n, ce(a, n, o), r.__ = r.__e = null, n.__e != i && w(n));
}
function w(e) {
	if ((e = e.__) && e.__c && !e.props.__P) return e.__e = null, e.__k.some(function(t) {
		return t && (e.__e = t.__e);
	}), w(e);
}
function T(t) {
	(8 & t.__g || (t.__g |= 8, n.push(t), i++)) && r == e.debounceRendering || ((r = e.debounceRendering) || queueMicrotask)(E);
}
function E() {
	try {
		for (var e, t = 1; n.length;) n.length > t && n.sort(a), e = n.shift(), t = n.length, 8 & e.__g && C(e);
	} finally {
		(i = n.length) && (r || queueMicrotask)(E);
	}
}
function ee(e, t, n, r, i, a, o, s, c, l, u) {
	var d, m, h, g, _, v, y = r.__k || p, b = t.length;
	for (c = D(n, t, y, c, b), d = 0; d < b; d++) (h = n.__k[d]) != null && (m = ~h.__i && y[h.__i] || f, h.__i = d, v = O(e, h, m, i, a, o, s, c, l, u), g = h.__e, (m.ref != h.ref || 8 & m.__u) && (m.ref && k(m.ref, null, h, m), h.ref && u.push(h.ref, h.__c || g, h)), _ ||= g, 4 & h.__u ? (c = te(h, c, e, !m.__v), m.__e && (m.__e = null)) : typeof h.type == "function" && v !== void 0 ? c = v : g && (c = g.nextSibling), h.__u &= -21);
	return n.__e = _, c;
}
function D(e, t, n, r, i) {
	var a, o, s, c, l, u, f, p, m, g = n.length, _ = g, v = 0, x = 0, C = e.__k = Array(i);
	for (a = 0; a < i; a++) (o = t[a]) != null && typeof o != "boolean" && typeof o != "function" ? (typeof o != "object" || o.constructor === String ? o = C[a] = y(null, o) : h(o) ? o = C[a] = y(b, { children: o }) : o.constructor === d && o.__b ? o = C[a] = y(o.type, o.props, o.key, o.ref, o.__v) : C[a] = o, c = a + v, o.__ = e, o.__b = e.__b + 1, s = null, ~(l = o.__i = ne(o, n, c, _)) && (_--, (s = n[l]) && (s.__u |= 2)), s && s.__v ? (o.__u |= 16, l == c - 1 ? v-- : l == c + 1 ? v++ : l != c && (l > c ? v-- : v++, x = 1)) : (~l || (i > g ? v-- : i < g && v++), typeof o.type != "function" && (o.__u |= 4))) : C[a] = null;
	if (x) {
		for (u = [], f = [], a = 0; a < i; a++) if ((o = C[a]) && 16 & o.__u) {
			for (v = 0, p = u.length; v < p;) u[m = v + p >> 1] < o.__i ? v = m + 1 : p = m;
			u[v] = o.__i, f[a] = v + 1;
		}
		for (v = u.length; a--;) f[a] && (f[a] == v ? v-- : C[a].__u |= 4);
	}
	if (_) for (a = 0; a < g; a++) !(s = n[a]) || 2 & s.__u || (s.__e == r && (r = S(s)), ue(s, s));
	return r;
}
function te(e, t, n, r) {
	var i, a, o, s;
	if (typeof e.type == "function") {
		if (e.props.__P) return t;
		if (i = e.__k) for (a = 0; a < i.length; a++) i[a] && (i[a].__ = e, t = te(i[a], t, n, !1));
		return t;
	}
	for (t && !t.parentNode && (t = S(e)) && !t.parentNode && (t = null), o = e.__e, s = t; s && s.nodeType == 8;) s = s.nextSibling;
	for (o != s && (!r && n.moveBefore && o.parentNode ? n.moveBefore(o, t) : n.insertBefore(o, t || null)), t = o; (t &&= t.nextSibling) && t.nodeType == 8 && !t.data.startsWith("$s"););
	return t;
}
function ne(e, t, n, r) {
	var i, a = e.key, o = e.type, s = t[n], c = s && !(2 & s.__u);
	if (s === null && a == null || c && a == s.key && o == s.type) return n;
	if (r > +!!c) {
		for (i = n - 1; i >= 0; i--) if ((s = t[i]) && !(2 & s.__u) && a == s.key && o == s.type) return i;
		for (i = n + 1; i < t.length; i++) if ((s = t[i]) && !(2 & s.__u) && a == s.key && o == s.type) return i;
	}
	return -1;
}
function re(e, t, n) {
	n ??= "", t[0] == "-" ? e.setProperty(t, n) : e[t] = n;
}
function ie(e, t, n, r, i) {
	var a, o;
	if (t == "style") {
		if (typeof n == "string") e.style.cssText = n;
		else {
			if (typeof r == "string" && (e.style.cssText = r = ""), r) for (t in r) n && t in n || re(e.style, t);
			if (n) for (t in n) r && n[t] == r[t] || re(e.style, t, n[t]);
		}
	} else if (t[0] == "o" && t[1] == "n") typeof n != "function" && (n = null), typeof r != "function" && (r = null), (e.__e ||= {})[t] = n, n && r || (o = l[t] || (l[t] = ae(t)), (e.__a ||= {})[t] = c, a = t != (t = t.replace(s, "$1")), (t = t.slice(2))[0] < "a" && (t = t.toLowerCase()), n ? e.addEventListener(t, o, a) : e.removeEventListener(t, o, a));
	else {
		if (i == "http://www.w3.org/2000/svg") t = t.replace(/xlink(H|:h)/, "h").replace(/sName$/, "s");
		else if (t != "width" && t != "height" && t != "href" && t != "list" && t != "form" && t != "tabIndex" && t != "download" && t != "rowSpan" && t != "colSpan" && t != "role" && t != "popover" && t in e) try {
			e[t] = n ?? "";
			return;
		} catch {}
		if (typeof n == "function") return;
		n == null || !1 === n && t[4] != "-" ? e.removeAttribute(t) : e.setAttribute(t, t == "popover" && n == 1 ? "" : n);
	}
}
function ae(t) {
	return function(n) {
		var r = this.__e;
		if (r) {
			if (r = r[t], n[o] == null) n[o] = c++;
			else if (n[o] < this.__a[t]) return;
			return r(e.event ? e.event(n) : n);
		}
	};
}
function O(t, n, r, i, a, o, s, c, l, u) {
	var f, m, g, y, C, w, T, E, D, te, ne, re, ie, ae, O, ce, k, A, j = n.type;
	if (n.constructor !== d) return null;
	128 & r.__u && (l = 32 & r.__u, f = r.__c.__z) && (n.__u |= l, m = o = [], f.nodeType == 8 ? c = oe(f, o) : o.push(f), c = o[0] || c), (f = e.__b) && f(n);
	n: if (typeof j == "function") {
		g = s.length;
		try {
			if (E = n.props, D = (f = j.prototype) && f.render, te = (f = j.contextType) && i[f.__c], ne = f ? te ? te.props.value : f.__ : i, (y = r.__c) ? (n.__c = y, 2 & y.__g && (y.__g |= 1)) : (D ? n.__c = y = new j(E, ne) : (n.__c = y = new x(E, ne), y.constructor = j, y.render = de), te && te.sub(y), y.state || (y.state = {}), y.__n = i, y.__g |= 8, y.__h = [], y.__k = []), D && (y.__s || (y.__s = y.state), j.getDerivedStateFromProps && (y.__s == y.state && (y.__s = _({}, y.__s)), _(y.__s, j.getDerivedStateFromProps(E, y.__s)))), C = y.props, w = y.state, y.__v = n, r.__c) {
				if (E !== C && D && !j.getDerivedStateFromProps && y.componentWillReceiveProps && y.componentWillReceiveProps(E, ne), n.__v == r.__v && !(8 & y.__g) || !(4 & y.__g) && y.shouldComponentUpdate && !1 === y.shouldComponentUpdate(E, y.__s, ne)) {
					n.__v != r.__v && (y.props = E, y.state = y.__s, y.__g &= -9), n.__e = r.__e, n.__k = r.__k, n.__k.some(function(e) {
						e && (e.__ = n);
					}), p.push.apply(y.__h, y.__k), y.__k = [], y.__h.length && s.push(y), c = S(r);
					break n;
				}
				y.componentWillUpdate && y.componentWillUpdate(E, y.__s, ne), D && y.componentDidUpdate && y.__h.push(function() {
					y.componentDidUpdate(C, w, T);
				});
			} else D && !j.getDerivedStateFromProps && y.componentWillMount && y.componentWillMount(), D && y.componentDidMount && y.__h.push(y.componentDidMount);
			y.context = ne, y.props = E, y.__P = t, y.__g &= -5, re = e.__r, ie = D ? 25 : 0;
			do
				y.__g &= -9, re && re(n), f = y.render(y.props, y.state = y.__s, y.context);
			while (8 & y.__g && ++ie < 25);
			D && (p.push.apply(y.__h, y.__k), y.__k = []), y.state = y.__s, y.getChildContext && (i = _({}, i, y.getChildContext())), D && r.__c && y.getSnapshotBeforeUpdate && (T = y.getSnapshotBeforeUpdate(C, w)), ae = f && f.type === b && f.key == null ? f.props.children : f, E.__P && (f = c, a = (t = E.__P).namespaceURI, l = o = null, r.props && r.props.__P != t && (r.__k.some(function(e) {
				e && ue(e, e);
			}), r.__k = null), c = r.__k ? S(r, 0) : null), c = ee(t, h(ae) ? ae : [ae], n, r, i, a, o, s, c, l, u), E.__P && (n.__e = null, c = f), n.__u &= -161, m && m.some(v), y.__h.length && s.push(y), 1 & y.__g && (y.__g &= -4);
		} catch (t) {
			if (s.length = g, n.__v = null, l || o) {
				if (t && t.then) {
					if (n.__u |= 128 | l, o) {
						for (~(k = o.indexOf(c || void 0)) || (k = o.length); (A = o[k - 1]) && A.nodeType == 8;) k--;
						for (; k < o.length; k++) if (A = o[k]) {
							if (o[k] = null, O) {
								if (A == ce) break;
							} else {
								if (A.nodeType != 8) break;
								A.data.startsWith("$s") && (ce = oe(O = A));
							}
						}
					}
					if (!O) {
						for (; c && c.nodeType == 8 && c.nextSibling;) c = c.nextSibling;
						O = c;
					}
					(f = oe(O = n.__c.__z || (n.__c.__z = O))) ? (n.__e = O, c = f) : n.__e = c, c &&= c.nextSibling;
				} else o && o.some(v);
			} else n.__e = r.__e;
			n.__k ||= r.__k || [], t && t.then || se(n), e.__e(t, n, r);
		}
	} else c = n.__e = le(r.__e, n, r, i, a, o, s, l, u, t);
	return (f = e.diffed) && f(n), c;
}
function oe(e, t) {
	if (e && e.nodeType == 8 && e.data.startsWith("$s")) for (var n = 1; e = e.nextSibling;) {
		if (e.nodeType == 8) {
			if (e.data.startsWith("$s")) n++;
			else if (e.data.startsWith("/$s") && !--n) return e;
		}
		t && t.push(e);
	}
}
function se(e) {
	e && (e.__c && (e.__c.__g |= 4), e.__k && e.__k.some(se));
}
function ce(t, n, r) {
	for (var i = 0; i < r.length;) k(r[i++], r[i++], r[i++]);
	e.__c && e.__c(n, t), t.some(function(n) {
		try {
			t = n.__h, n.__h = [], t.some(function(e) {
				e.call(n);
			});
		} catch (t) {
			e.__e(t, n.__v);
		}
	});
}
function le(t, n, r, i, a, o, s, c, l, u) {
	var d, p, _, y, b, x, C, w, T = r.props || f, E = n.props, D = n.type;
	if (D == "svg" ? a = "http://www.w3.org/2000/svg" : D == "math" ? a = "http://www.w3.org/1998/Math/MathML" : a ||= "http://www.w3.org/1999/xhtml", o) {
		for (d = 0; d < o.length; d++) if ((b = o[d]) && (D ? b.localName == D : b.nodeType == 3)) {
			t = b, o[d] = null;
			break;
		}
	}
	if (!t) {
		if (w = u.ownerDocument || document, !D) return w.createTextNode(E);
		t = w.createElementNS(a, D, E.is ? E : u), c &&= (e.__m && e.__m(n, o), !1), o = null;
	}
	if (D) {
		if (u = D == "template" && t.content || t, o = D == "textarea" && E.defaultValue != null ? null : o && g.call(u.childNodes), !c && o) for (T = {}, d = 0; d < t.attributes.length; d++) T[(b = t.attributes[d]).name] = b.value;
		for (d in T) b = T[d], d == "dangerouslySetInnerHTML" ? _ = b : d == "children" || d in E || d == "value" && "defaultValue" in E || d == "checked" && "defaultChecked" in E || ie(t, d, null, b, a);
		for (d in E) b = E[d], d == "children" ? y = b : d == "dangerouslySetInnerHTML" ? p = b : d == "value" ? x = b : d == "checked" ? C = b : c && typeof b != "function" || T[d] === b || ie(t, d, b, T[d], a);
		p ? (c || _ && (p.__html == _.__html || p.__html == t.innerHTML) || (t.innerHTML = p.__html), n.__k = []) : (_ && (t.textContent = ""), (D == "foreignObject" || a == "http://www.w3.org/1998/Math/MathML" && m.test(D)) && (a = "http://www.w3.org/1999/xhtml"), ee(u, h(y) ? y : [y], n, r, i, a, o, s, o ? o[0] : r.__k && S(r, 0), c, l), o && o.some(v)), c && D != "textarea" || (d = "value", D == "progress" && x == null ? t.removeAttribute(d) : x == null || x === t[d] && (D != "progress" || x) || ie(t, d, x, T[d], a), d = "checked", C != null && C != t[d] && ie(t, d, C, T[d], a));
	} else T === E || c && t.data == E || (t.data = E);
	return t;
}
function k(t, n, r, i) {
	try {
		typeof t == "function" ? n ? n.__x = t(n) || 1 : (i &&= i.__c || i.__e) && (n = i.__x) && (i.__x = null, typeof n == "function" ? n() : t(null)) : t.current = n;
	} catch (t) {
		e.__e(t, r);
	}
}
function ue(t, n, r) {
	var i, a, o, s;
	if (e.unmount && e.unmount(t), !(i = t.ref) || i.current && i.current != t.__e || k(i, null, n, t), i = t.__c) {
		if (i.componentWillUnmount) try {
			i.componentWillUnmount();
		} catch (t) {
			e.__e(t, n);
		}
		i.__P = i.__n = null;
	}
	if (i = t.__k) for (s = 0; s < i.length; s++) i[s] && ue(i[s], n, typeof t.type != "function" || r && !t.props.__P);
	!r && (i = t.__c) && (i = i.__z) && (a = oe(i, o = [])) && (i == t.__e && o.some(v), v(a), v(i)), r || v(t.__e), t.__e = t.__c = t.__ = null;
}
function de(e, t, n) {
	return this.constructor(e, n);
}
function A(t, n) {
	var r, i, a, o;
	e.__ && e.__(t, n), n.nodeType == 9 && (n = n.documentElement), i = (r = t && 32 & t.__u) ? null : n.__k, n.__k = y(b, { children: [t] }), a = [], o = [], O(n, n.__k, i || f, f, n.namespaceURI, i ? null : n.firstChild ? g.call(n.childNodes) : null, a, i ? i.__e : n.firstChild, r, o), ce(a, n.__k, o), n.__k.props.children = null;
}
function j(e) {
	function t(e) {
		var n, r;
		return this.getChildContext || (n = /* @__PURE__ */ new Set(), (r = {})[t.__c] = this, this.getChildContext = function() {
			return r;
		}, this.shouldComponentUpdate = function(e) {
			this.props.value != e.value && n.forEach(function(e) {
				e.__g |= 4, T(e);
			});
		}, this.sub = function(e) {
			n.add(e);
			var t = e.componentWillUnmount;
			e.componentWillUnmount = function() {
				n.delete(e), t && t.call(e);
			};
		}), e.children;
	}
	return t.__c = "__cC" + u++, t.__ = e, t.Provider = (t.Consumer = function(e, t) {
		return e.children(t);
	}).contextType = t, t;
}
e = { __e: function(e, t, n, r) {
	for (var a, o, s; t = t.__;) if ((a = t.__c) && !(1 & a.__g)) {
		a.__g |= 4;
		try {
			if ((s = (o = a.constructor) && o.getDerivedStateFromError) && a.setState(o.getDerivedStateFromError(e)), a.componentDidCatch && (a.componentDidCatch(e, r || {}), s = 1), s && 8 & a.__g) return void (a.__g |= 2);
		} catch (t) {
			e = t;
		}
	}
	throw i = 0, e;
} }, t = 0, x.prototype.setState = function(e, t) {
	var n = this.__s;
	n && n != this.state || (n = this.__s = _({}, this.state)), typeof e == "function" && (e = e(_({}, n), this.props)), e && (_(n, e), this.__v && (t && this.__k.push(t), T(this)));
}, x.prototype.forceUpdate = function(e) {
	this.__v && (this.__g |= 4, e && this.__h.push(e), T(this));
}, x.prototype.render = b, n = [], i = 0, a = function(e, t) {
	return e.__v.__b - t.__v.__b;
}, o = Symbol(), s = /(PointerCapture)$|Capture$/i, c = 0, l = {}, u = 0;
// node_modules/preact/hooks/dist/hooks.mjs
var fe, M, pe, me, he = Object.is, ge = 0, _e = [], ve = [], N = e, ye = N.__b, be = N.__r, xe = N.diffed, Se = N.__c, Ce = N.unmount, we = N.__;
function Te(e, t) {
	N.__h && N.__h(M, e, ge || t), ge = 0;
	var n = M.__H || (M.__H = {
		__: [],
		__h: []
	});
	return e >= n.__.length && n.__.push({}), n.__[e];
}
function P(e) {
	return ge = 1, Ee(Be, e);
}
function Ee(e, t, n) {
	var r = Te(fe++, 2);
	if (r.t = e, !r.__c && (r.__ = [n ? n(t) : Be(void 0, t), function(e) {
		var t = (r.__N || r.__)[0], n = r.t(t, e);
		he(t, n) || (r.__N = [n, r.__[1]], r.__c.setState({}));
	}], r.__c = M, !M.__f)) {
		M.__f = !0;
		var i = M.shouldComponentUpdate;
		M.shouldComponentUpdate = function(e, t, n) {
			var r = this.__H;
			if (!r) return !0;
			var a = !1, o = this.props != e;
			if (r.__.some(function(e) {
				e.__N && (a = !0, he(e.__[0], e.__N[0]) || (o = !0));
			}), i) {
				var s = i.call(this, e, t, n);
				return a ? s || o : s;
			}
			return !a || o;
		};
	}
	return r.__;
}
function De(e, t) {
	var n = Te(fe++, 3);
	!N.__s && ze(n.__H, t) && (n.__P = !0, n.__ = e, n.u = t, M.__H.__h.push(n));
}
function Oe(e, t) {
	var n = Te(fe++, 4);
	!N.__s && ze(n.__H, t) && (n.__P = !1, n.__ = e, n.u = t, M.__h.push(n));
}
function ke(e) {
	return ge = 5, F(function() {
		return { current: e };
	}, []);
}
function F(e, t) {
	var n = Te(fe++, 7);
	return ze(n.__H, t) && (n.__ = e(), n.__H = t), n.__;
}
function Ae(e, t) {
	return ge = 8, F(function() {
		return e;
	}, t);
}
function je(e) {
	var t = M.context[e.__c], n = Te(fe++, 9);
	return n.c = e, t ? (n.__ ?? (n.__ = !0, t.sub(M)), t.props.value) : e.__;
}
function Me() {
	var e = Te(fe++, 11);
	if (!e.__) {
		for (var t = M.__v; !t.__m && t.__;) t = t.__;
		var n = t.__m || (t.__m = [0, 0]);
		e.__ = "P" + n[0] + "-" + n[1]++;
	}
	return e.__;
}
function Ne() {
	var e;
	do {
		for (; e = ve.shift();) try {
			Le(e);
		} catch (t) {
			N.__e(t, { __: (e = e.__P) && e.__v });
		}
		for (; e = _e.shift();) {
			var t = e.__H;
			if (e.__P && t) try {
				t.__h.some(Le), t.__h.some(Re), t.__h = [];
			} catch (n) {
				t.__h = [], N.__e(n, e.__v);
			}
		}
	} while (ve.length);
}
N.__b = function(e) {
	M = null, ye && ye(e);
}, N.__ = function(e, t) {
	e && t.__k && t.__k.__m && (e.__m = t.__k.__m), we && we(e, t);
}, N.__r = function(e) {
	be && be(e), fe = 0;
	var t = (M = e.__c).__H;
	t && (pe == M ? M.__h = [] : (t.__h.some(Le), t.__h.some(Re), fe = 0), t.__h = [], t.__.some(function(e) {
		e.__N && (e.__ = e.__N), e.u = e.__N = void 0;
	})), pe = M;
}, N.diffed = function(e) {
	xe && xe(e);
	var t = e.__c;
	t && t.__H && (t.__H.__h.length && Ie(_e.push(t)), t.__H.__.some(function(e) {
		e.u && (e.__H = e.u);
	})), pe = M = null;
}, N.__c = function(e, t) {
	t.some(function(e) {
		try {
			e.__h.some(Le), e.__h = e.__h.filter(function(e) {
				return !e.__ || Re(e);
			});
		} catch (t) {
			e.__h = [function() {
				throw t;
			}];
		}
	}), Se && Se(e, t);
}, N.unmount = function(e) {
	Ce && Ce(e);
	var t, n, r = e.__c;
	r && r.__H && (r.__H.__.some(function(r) {
		try {
			if (r.__P && r.__c) {
				if (n === void 0) {
					for (n = e.__; n && (!n.__c || !n.__c.__P);) n = n.__;
					n &&= n.__c;
				}
				r.__P = n, Ie(ve.push(r));
			} else Le(r);
		} catch (e) {
			t = e;
		}
	}), r.__H = void 0, t && N.__e(t, r.__v));
};
var Pe = typeof requestAnimationFrame == "function";
function Fe(e) {
	var t, n = function() {
		clearTimeout(r), Pe && cancelAnimationFrame(t), setTimeout(e);
	}, r = setTimeout(n, 35);
	Pe && (t = requestAnimationFrame(n));
}
function Ie(e) {
	e != 1 && me == N.requestAnimationFrame || ((me = N.requestAnimationFrame) || Fe)(Ne);
}
function Le(e) {
	var t = M, n = e.__c;
	typeof n == "function" && (e.__c = void 0, n()), M = t;
}
function Re(e) {
	var t = M;
	e.__c = e.__(), M = t;
}
function ze(e, t) {
	return !e || e.length != t.length || t.some(function(t, n) {
		return !he(t, e[n]);
	});
}
function Be(e, t) {
	return typeof t == "function" ? t(e) : t;
}
// node_modules/preact/jsx-runtime/dist/jsxRuntime.mjs
var Ve = Symbol.for("pv"), He = 0;
Array.isArray;
function I(t, n, r, i, a, o) {
	n ||= {};
	var s, c, l = n;
	if ("ref" in l && typeof t != "function") for (c in l = {}, n) c == "ref" ? s = n[c] : l[c] = n[c];
	var u = {
		type: t,
		props: l,
		key: r,
		ref: s,
		__k: null,
		__: null,
		__b: 0,
		__e: null,
		__c: null,
		constructor: Ve,
		__v: --He,
		__i: -1,
		__u: 0
	};
	return (a || o) && (u.__source = a, u.__self = o), e.vnode && e.vnode(u), u;
}
// src/about/About.tsx
function Ue({ traces: e }) {
	return /* @__PURE__ */ I("ul", {
		class: "limits",
		children: [...new Set(e.flatMap((e) => e.facts.not_shown))].map((e) => /* @__PURE__ */ I("li", { children: e }, e))
	});
}
function We({ trace: e }) {
	return /* @__PURE__ */ I("dl", {
		class: "provenance",
		children: e.facts.provenance.map(([e, t]) => /* @__PURE__ */ I("div", { children: [/* @__PURE__ */ I("dt", { children: e }), /* @__PURE__ */ I("dd", { children: String(t) })] }, e))
	});
}
// node_modules/d3-array/dist/d3-array.mjs
function Ge(e, t) {
	return e == null || t == null ? NaN : e < t ? -1 : e > t ? 1 : e >= t ? 0 : NaN;
}
function Ke(e, t) {
	return e == null || t == null ? NaN : t < e ? -1 : t > e ? 1 : t >= e ? 0 : NaN;
}
function qe(e) {
	let t, n, r;
	e.length === 2 ? (t = e === Ge || e === Ke ? e : Je, n = e, r = e) : (t = Ge, n = (t, n) => Ge(e(t), n), r = (t, n) => e(t) - n);
	function i(e, r, i = 0, a = e.length) {
		if (i < a) {
			if (t(r, r) !== 0) return a;
			do {
				let t = i + a >>> 1;
				n(e[t], r) < 0 ? i = t + 1 : a = t;
			} while (i < a);
		}
		return i;
	}
	function a(e, r, i = 0, a = e.length) {
		if (i < a) {
			if (t(r, r) !== 0) return a;
			do {
				let t = i + a >>> 1;
				n(e[t], r) <= 0 ? i = t + 1 : a = t;
			} while (i < a);
		}
		return i;
	}
	function o(e, t, n = 0, a = e.length) {
		let o = i(e, t, n, a - 1);
		return o > n && r(e[o - 1], t) > -r(e[o], t) ? o - 1 : o;
	}
	return {
		left: i,
		center: o,
		right: a
	};
}
function Je() {
	return 0;
}
function Ye(e) {
	return e === null ? NaN : +e;
}
var Xe = qe(Ge), Ze = Xe.right;
Xe.left, qe(Ye).center;
function Qe(e, t) {
	let n = 0;
	if (t === void 0) for (let t of e) t != null && (t = +t) >= t && ++n;
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (i = +i) >= i && ++n;
	}
	return n;
}
function $e(e, t) {
	let n, r;
	if (t === void 0) for (let t of e) t != null && (n === void 0 ? t >= t && (n = r = t) : (n > t && (n = t), r < t && (r = t)));
	else {
		let i = -1;
		for (let a of e) (a = t(a, ++i, e)) != null && (n === void 0 ? a >= a && (n = r = a) : (n > a && (n = a), r < a && (r = a)));
	}
	return [n, r];
}
function et(e) {
	return e;
}
var tt = Array.prototype.slice;
function nt(e) {
	return () => e;
}
var rt = Math.sqrt(50), it = Math.sqrt(10), at = Math.sqrt(2);
function ot(e, t, n) {
	let r = (t - e) / Math.max(0, n), i = Math.floor(Math.log10(r)), a = r / 10 ** i, o = a >= rt ? 10 : a >= it ? 5 : a >= at ? 2 : 1, s, c, l;
	return i < 0 ? (l = 10 ** -i / o, s = Math.round(e * l), c = Math.round(t * l), s / l < e && ++s, c / l > t && --c, l = -l) : (l = 10 ** i * o, s = Math.round(e / l), c = Math.round(t / l), s * l < e && ++s, c * l > t && --c), c < s && .5 <= n && n < 2 ? ot(e, t, n * 2) : [
		s,
		c,
		l
	];
}
function st(e, t, n) {
	if (t = +t, e = +e, n = +n, !(n > 0)) return [];
	if (e === t) return [e];
	let r = t < e, [i, a, o] = r ? ot(t, e, n) : ot(e, t, n);
	if (!(a >= i)) return [];
	let s = a - i + 1, c = Array(s);
	if (r) {
		if (o < 0) for (let e = 0; e < s; ++e) c[e] = (a - e) / -o;
		else for (let e = 0; e < s; ++e) c[e] = (a - e) * o;
	} else if (o < 0) for (let e = 0; e < s; ++e) c[e] = (i + e) / -o;
	else for (let e = 0; e < s; ++e) c[e] = (i + e) * o;
	return c;
}
function ct(e, t, n) {
	return t = +t, e = +e, n = +n, ot(e, t, n)[2];
}
function lt(e, t, n) {
	t = +t, e = +e, n = +n;
	let r = t < e, i = r ? ct(t, e, n) : ct(e, t, n);
	return (r ? -1 : 1) * (i < 0 ? 1 / -i : i);
}
function ut(e, t, n) {
	let r;
	for (;;) {
		let i = ct(e, t, n);
		if (i === r || i === 0 || !isFinite(i)) return [e, t];
		if (i > 0) {
			let n = Math.ceil(e / i), r = Math.floor(t / i);
			e = (n - (n * i > e)) * i, t = (r + (r * i < t)) * i;
		} else if (i < 0) {
			let n = -i, r = Math.ceil(e * n), a = Math.floor(t * n);
			e = (r - (r / n > e)) / n, t = (a + (a / n < t)) / n;
		}
		r = i;
	}
}
function dt(e) {
	return Math.max(1, Math.ceil(Math.log(Qe(e)) / Math.LN2) + 1);
}
function ft() {
	var e = et, t = $e, n = dt;
	function r(r) {
		Array.isArray(r) || (r = Array.from(r));
		var i, a = r.length, o, s, c = Array(a);
		for (i = 0; i < a; ++i) c[i] = e(r[i], i, r);
		var l = t(c), u = l[0], d = l[1], f = n(c, u, d);
		if (!Array.isArray(f)) {
			let e = d, n = +f;
			if (t === $e && ([u, d] = ut(u, d, n)), f = st(u, d, n), f[0] <= u && (s = ct(u, d, n)), f[f.length - 1] >= d) {
				if (e >= d && t === $e) {
					let e = ct(u, d, n);
					isFinite(e) && (e > 0 ? d = (Math.floor(d / e) + 1) * e : e < 0 && (d = (Math.ceil(d * -e) + 1) / -e));
				} else f.pop();
			}
		}
		for (var p = f.length, m = 0, h = p; f[m] <= u;) ++m;
		for (; f[h - 1] > d;) --h;
		(m || h < p) && (f = f.slice(m, h), p = h - m);
		var g = Array(p + 1), _;
		for (i = 0; i <= p; ++i) _ = g[i] = [], _.x0 = i > 0 ? f[i - 1] : u, _.x1 = i < p ? f[i] : d;
		if (isFinite(s)) {
			if (s > 0) for (i = 0; i < a; ++i) (o = c[i]) != null && u <= o && o <= d && g[Math.min(p, Math.floor((o - u) / s))].push(r[i]);
			else if (s < 0) {
				for (i = 0; i < a; ++i) if ((o = c[i]) != null && u <= o && o <= d) {
					let e = Math.floor((u - o) * s);
					g[Math.min(p, e + (f[e] <= o))].push(r[i]);
				}
			}
		} else for (i = 0; i < a; ++i) (o = c[i]) != null && u <= o && o <= d && g[Ze(f, o, 0, p)].push(r[i]);
		return g;
	}
	return r.value = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : nt(t), r) : e;
	}, r.domain = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : nt([e[0], e[1]]), r) : t;
	}, r.thresholds = function(e) {
		return arguments.length ? (n = typeof e == "function" ? e : nt(Array.isArray(e) ? tt.call(e) : e), r) : n;
	}, r;
}
function L(e, t) {
	let n;
	if (t === void 0) for (let t of e) t != null && (n < t || n === void 0 && t >= t) && (n = t);
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (n < i || n === void 0 && i >= i) && (n = i);
	}
	return n;
}
function pt(e, t) {
	let n;
	if (t === void 0) for (let t of e) t != null && (n > t || n === void 0 && t >= t) && (n = t);
	else {
		let r = -1;
		for (let i of e) (i = t(i, ++r, e)) != null && (n > i || n === void 0 && i >= i) && (n = i);
	}
	return n;
}
function mt(e, t, n = Ye) {
	if ((r = e.length) && !isNaN(t = +t)) {
		if (t <= 0 || r < 2) return +n(e[0], 0, e);
		if (t >= 1) return +n(e[r - 1], r - 1, e);
		var r, i = (r - 1) * t, a = Math.floor(i), o = +n(e[a], a, e);
		return o + (+n(e[a + 1], a + 1, e) - o) * (i - a);
	}
}
function ht(e, t) {
	let n = 0, r = 0;
	if (t === void 0) for (let t of e) t != null && (t = +t) >= t && (++n, r += t);
	else {
		let i = -1;
		for (let a of e) (a = t(a, ++i, e)) != null && (a = +a) >= a && (++n, r += a);
	}
	if (n) return r / n;
}
function gt(e, t) {
	let n = 0;
	if (t === void 0) for (let t of e) (t = +t) && (n += t);
	else {
		let r = -1;
		for (let i of e) (i = +t(i, ++r, e)) && (n += i);
	}
	return n;
}
// node_modules/d3-format/dist/d3-format.mjs
function _t(e) {
	return Math.abs(e = Math.round(e)) >= 1e21 ? e.toLocaleString("en").replace(/,/g, "") : e.toString(10);
}
function vt(e, t) {
	if (!isFinite(e) || e === 0) return null;
	var n = (e = t ? e.toExponential(t - 1) : e.toExponential()).indexOf("e"), r = e.slice(0, n);
	return [r.length > 1 ? r[0] + r.slice(2) : r, +e.slice(n + 1)];
}
function yt(e) {
	return e = vt(Math.abs(e)), e ? e[1] : NaN;
}
function bt(e, t) {
	return function(n, r) {
		for (var i = n.length, a = [], o = 0, s = e[0], c = 0; i > 0 && s > 0 && (c + s + 1 > r && (s = Math.max(1, r - c)), a.push(n.substring(i -= s, i + s)), !((c += s + 1) > r));) s = e[o = (o + 1) % e.length];
		return a.reverse().join(t);
	};
}
function xt(e) {
	return function(t) {
		return t.replace(/[0-9]/g, function(t) {
			return e[+t];
		});
	};
}
var St = /^(?:(.)?([<>=^]))?([+\-( ])?([$#])?(0)?(\d+)?(,)?(\.\d+)?(~)?([a-z%])?$/i;
function Ct(e) {
	if (!(t = St.exec(e))) throw Error("invalid format: " + e);
	var t;
	return new wt({
		fill: t[1],
		align: t[2],
		sign: t[3],
		symbol: t[4],
		zero: t[5],
		width: t[6],
		comma: t[7],
		precision: t[8] && t[8].slice(1),
		trim: t[9],
		type: t[10]
	});
}
Ct.prototype = wt.prototype;
function wt(e) {
	this.fill = e.fill === void 0 ? " " : e.fill + "", this.align = e.align === void 0 ? ">" : e.align + "", this.sign = e.sign === void 0 ? "-" : e.sign + "", this.symbol = e.symbol === void 0 ? "" : e.symbol + "", this.zero = !!e.zero, this.width = e.width === void 0 ? void 0 : +e.width, this.comma = !!e.comma, this.precision = e.precision === void 0 ? void 0 : +e.precision, this.trim = !!e.trim, this.type = e.type === void 0 ? "" : e.type + "";
}
wt.prototype.toString = function() {
	return this.fill + this.align + this.sign + this.symbol + (this.zero ? "0" : "") + (this.width === void 0 ? "" : Math.max(1, this.width | 0)) + (this.comma ? "," : "") + (this.precision === void 0 ? "" : "." + Math.max(0, this.precision | 0)) + (this.trim ? "~" : "") + this.type;
};
function Tt(e) {
	out: for (var t = e.length, n = 1, r = -1, i; n < t; ++n) switch (e[n]) {
		case ".":
			r = i = n;
			break;
		case "0":
			r === 0 && (r = n), i = n;
			break;
		default:
			if (!+e[n]) break out;
			r > 0 && (r = 0);
	}
	return r > 0 ? e.slice(0, r) + e.slice(i + 1) : e;
}
var Et;
function Dt(e, t) {
	var n = vt(e, t);
	if (!n) return Et = void 0, e.toPrecision(t);
	var r = n[0], i = n[1], a = i - (Et = Math.max(-8, Math.min(8, Math.floor(i / 3))) * 3) + 1, o = r.length;
	return a === o ? r : a > o ? r + Array(a - o + 1).join("0") : a > 0 ? r.slice(0, a) + "." + r.slice(a) : "0." + Array(1 - a).join("0") + vt(e, Math.max(0, t + a - 1))[0];
}
function Ot(e, t) {
	var n = vt(e, t);
	if (!n) return e + "";
	var r = n[0], i = n[1];
	return i < 0 ? "0." + Array(-i).join("0") + r : r.length > i + 1 ? r.slice(0, i + 1) + "." + r.slice(i + 1) : r + Array(i - r.length + 2).join("0");
}
var kt = {
	"%": (e, t) => (e * 100).toFixed(t),
	b: (e) => Math.round(e).toString(2),
	c: (e) => e + "",
	d: _t,
	e: (e, t) => e.toExponential(t),
	f: (e, t) => e.toFixed(t),
	g: (e, t) => e.toPrecision(t),
	o: (e) => Math.round(e).toString(8),
	p: (e, t) => Ot(e * 100, t),
	r: Ot,
	s: Dt,
	X: (e) => Math.round(e).toString(16).toUpperCase(),
	x: (e) => Math.round(e).toString(16)
};
function At(e) {
	return e;
}
var jt = Array.prototype.map, Mt = [
	"y",
	"z",
	"a",
	"f",
	"p",
	"n",
	"µ",
	"m",
	"",
	"k",
	"M",
	"G",
	"T",
	"P",
	"E",
	"Z",
	"Y"
];
function Nt(e) {
	var t = e.grouping === void 0 || e.thousands === void 0 ? At : bt(jt.call(e.grouping, Number), e.thousands + ""), n = e.currency === void 0 ? "" : e.currency[0] + "", r = e.currency === void 0 ? "" : e.currency[1] + "", i = e.decimal === void 0 ? "." : e.decimal + "", a = e.numerals === void 0 ? At : xt(jt.call(e.numerals, String)), o = e.percent === void 0 ? "%" : e.percent + "", s = e.minus === void 0 ? "−" : e.minus + "", c = e.nan === void 0 ? "NaN" : e.nan + "";
	function l(e, l) {
		e = Ct(e);
		var u = e.fill, d = e.align, f = e.sign, p = e.symbol, m = e.zero, h = e.width, g = e.comma, _ = e.precision, v = e.trim, y = e.type;
		y === "n" ? (g = !0, y = "g") : kt[y] || (_ === void 0 && (_ = 12), v = !0, y = "g"), (m || u === "0" && d === "=") && (m = !0, u = "0", d = "=");
		var b = (l && l.prefix !== void 0 ? l.prefix : "") + (p === "$" ? n : p === "#" && /[boxX]/.test(y) ? "0" + y.toLowerCase() : ""), x = (p === "$" ? r : /[%p]/.test(y) ? o : "") + (l && l.suffix !== void 0 ? l.suffix : ""), S = kt[y], C = /[defgprs%]/.test(y);
		_ = _ === void 0 ? 6 : /[gprs]/.test(y) ? Math.max(1, Math.min(21, _)) : Math.max(0, Math.min(20, _));
		function w(e) {
			var n = b, r = x, o, l, p;
			if (y === "c") r = S(e) + r, e = "";
			else {
				e = +e;
				var w = e < 0 || 1 / e < 0;
				if (e = isNaN(e) ? c : S(Math.abs(e), _), v && (e = Tt(e)), w && +e == 0 && f !== "+" && (w = !1), n = (w ? f === "(" ? f : s : f === "-" || f === "(" ? "" : f) + n, r = (y === "s" && !isNaN(e) && Et !== void 0 ? Mt[8 + Et / 3] : "") + r + (w && f === "(" ? ")" : ""), C) {
					for (o = -1, l = e.length; ++o < l;) if (p = e.charCodeAt(o), 48 > p || p > 57) {
						r = (p === 46 ? i + e.slice(o + 1) : e.slice(o)) + r, e = e.slice(0, o);
						break;
					}
				}
			}
			g && !m && (e = t(e, Infinity));
			var T = n.length + e.length + r.length, E = T < h ? Array(h - T + 1).join(u) : "";
			switch (g && m && (e = t(E + e, E.length ? h - r.length : Infinity), E = ""), d) {
				case "<":
					e = n + e + r + E;
					break;
				case "=":
					e = n + E + e + r;
					break;
				case "^":
					e = E.slice(0, T = E.length >> 1) + n + e + r + E.slice(T);
					break;
				default: e = E + n + e + r;
			}
			return a(e);
		}
		return w.toString = function() {
			return e + "";
		}, w;
	}
	function u(e, t) {
		var n = Math.max(-8, Math.min(8, Math.floor(yt(t) / 3))) * 3, r = 10 ** -n, i = l((e = Ct(e), e.type = "f", e), { suffix: Mt[8 + n / 3] });
		return function(e) {
			return i(r * e);
		};
	}
	return {
		format: l,
		formatPrefix: u
	};
}
var Pt, R, Ft;
It({
	thousands: ",",
	grouping: [3],
	currency: ["$", ""]
});
function It(e) {
	return Pt = Nt(e), R = Pt.format, Ft = Pt.formatPrefix, Pt;
}
function Lt(e) {
	return Math.max(0, -yt(Math.abs(e)));
}
function Rt(e, t) {
	return Math.max(0, Math.max(-8, Math.min(8, Math.floor(yt(t) / 3))) * 3 - yt(Math.abs(e)));
}
function zt(e, t) {
	return e = Math.abs(e), t = Math.abs(t) - e, Math.max(0, yt(t) - yt(e)) + 1;
}
// src/format.ts
var z = R(",d"), Bt = R(",.1~f"), Vt = R(".2f"), Ht = R(".3f"), Ut = R(".2~e");
function B(e) {
	return e === null ? "unknown" : `${Vt(e)} ×`;
}
function Wt(e) {
	return `${R(".1f")(e)}×`;
}
function V(e) {
	let t = e * 100, n = Math.min(Math.abs(t), Math.abs(100 - t));
	if (n === 0) return `${t.toFixed(0)} %`;
	let r = n >= 10 ? 0 : n >= 1 ? 1 : Math.min(6, 1 + Math.ceil(-Math.log10(n)));
	return `${R(`.${r}~f`)(t)} %`;
}
function H(e) {
	return e === null ? "not recorded" : e === -Infinity ? "masked" : e === Infinity ? "∞" : e !== 0 && Math.abs(e) < .001 ? Ut(e) : Ht(e);
}
var Gt = [
	"bytes",
	"KB",
	"MB",
	"GB",
	"TB",
	"PB"
];
function Kt(e) {
	return Jt(e, Gt);
}
function qt(e) {
	return Jt(e, [
		"",
		"thousand",
		"million",
		"billion",
		"trillion"
	]).trim();
}
function Jt(e, t) {
	let n = Math.min(t.length - 1, e < 1e3 ? 0 : Math.floor(Math.log10(e) / 3));
	return `${R(n ? ".3~r" : ",d")(e / 1e3 ** n)} ${t[n]}`;
}
function U(e, t, n = `${t}s`) {
	return `${z(e)} ${e === 1 ? t : n}`;
}
function Yt(e) {
	return e.length < 2 ? e.join("") : `${e.slice(0, -1).join(", ")} and ${e[e.length - 1]}`;
}
// src/scroll-table.tsx
function Xt({ label: e, class: t, columns: n, children: r }) {
	return /* @__PURE__ */ I("section", {
		class: "scroll",
		tabIndex: 0,
		"aria-label": e,
		children: /* @__PURE__ */ I("table", {
			class: t,
			children: [/* @__PURE__ */ I("thead", { children: /* @__PURE__ */ I("tr", { children: n.map((e) => /* @__PURE__ */ I("th", {
				scope: "col",
				children: e
			}, e)) }) }), /* @__PURE__ */ I("tbody", { children: r })]
		})
	});
}
// src/text/tokens.ts
var Zt = {
	"\n": "↵",
	"\r": "␍",
	"	": "⇥",
	"\xA0": "⍽"
}, Qt = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u00a0]/gu, $t = 60;
function W(e, t) {
	if (e === null) return t === null ? "·" : `#${t}`;
	if (e === "") return "∅";
	let n = e.replace(Qt, (e) => Zt[e] ?? `‹${(e.codePointAt(0) ?? 0).toString(16).toUpperCase()}›`), r = n.length > $t ? [...n] : null, i = r && r.length > $t ? `${r.slice(0, $t).join("")}…` : n;
	return /^ +$/.test(i) ? i.replaceAll(" ", "␣") : i;
}
function en(e, t) {
	return `“${W(e, t).trim()}”`;
}
function tn(e, t) {
	if (!t) return [];
	let n = [], r = "";
	for (let t of e) n.push(r.length), r += (t ?? "").toLowerCase();
	let i = [], a = 0;
	for (let e = r.indexOf(t.toLowerCase()); e >= 0; e = r.indexOf(t.toLowerCase(), e + 1)) {
		for (; a + 1 < n.length && n[a + 1] <= e;) a++;
		i[i.length - 1] !== a && i.push(a);
	}
	return i;
}
// src/compare/ComparisonView.tsx
var nn = 10;
function rn(e) {
	let { comparison: t, traces: n } = e;
	return /* @__PURE__ */ I("div", {
		class: "comparison",
		children: [
			/* @__PURE__ */ I("h3", { children: "A against B" }),
			/* @__PURE__ */ I("p", {
				class: "sentence",
				children: t.facts.sentence
			}),
			/* @__PURE__ */ I("div", {
				class: "comparison-parts",
				children: [/* @__PURE__ */ I("div", { children: [/* @__PURE__ */ I("p", { children: [/* @__PURE__ */ I("b", { children: "Layer by layer." }), " How many of a token’s experts stayed, in the mean."] }), /* @__PURE__ */ I(on, {
					layers: t.facts.layers,
					trace: n[0]
				})] }), /* @__PURE__ */ I(sn, { ...e })]
			})
		]
	});
}
var an = [
	"layer",
	"experts in common",
	"changed",
	"distance of loads"
];
function on({ layers: e, trace: t }) {
	return /* @__PURE__ */ I(Xt, {
		label: "Agreement, layer by layer",
		columns: an,
		children: e.map((e, n) => /* @__PURE__ */ I("tr", { children: [
			/* @__PURE__ */ I("th", {
				scope: "row",
				children: t.layer(n).index
			}),
			/* @__PURE__ */ I("td", { children: V(e.overlap) }),
			/* @__PURE__ */ I("td", { children: V(e.flips) }),
			/* @__PURE__ */ I("td", { children: H(e.js_distance) })
		] }, t.layer(n).index))
	});
}
function sn({ traces: e, comparison: t, selection: n, select: r }) {
	let [i, a] = P(nn), o = e[0];
	return /* @__PURE__ */ I("div", { children: [
		/* @__PURE__ */ I("p", { children: [/* @__PURE__ */ I("b", { children: "Most changed tokens." }), " A bar for each layer, high where few experts are in common."] }),
		/* @__PURE__ */ I("ol", {
			class: "changed",
			children: t.mostChanged.slice(0, i).map((e) => {
				let i = t.tokenOf(e, 0), a = o.layers.map((n, r) => t.overlap(r, e) / n.top_k);
				return /* @__PURE__ */ I("li", { children: /* @__PURE__ */ I("button", {
					type: "button",
					"aria-pressed": n.tokens[0] === i,
					onClick: () => r({ tokens: t.tokens(0, i) }),
					children: [
						/* @__PURE__ */ I("span", {
							class: "chip plain",
							children: /* @__PURE__ */ I("bdi", { children: W(o.text(i), o.ofToken("token_ids", i)) })
						}),
						/* @__PURE__ */ I("span", {
							class: "fine",
							children: ["token ", z(i)]
						}),
						/* @__PURE__ */ I(un, { overlaps: a }),
						V(ht(a) ?? 1),
						" in common"
					]
				}) }, e);
			})
		}),
		i < t.mostChanged.length && /* @__PURE__ */ I("button", {
			type: "button",
			onClick: () => a(i + 40),
			children: "more"
		})
	] });
}
var cn = 120, ln = 18;
function un({ overlaps: e }) {
	let t = cn / e.length;
	return /* @__PURE__ */ I("svg", {
		class: "sparkline",
		width: cn,
		height: ln,
		"aria-hidden": "true",
		children: e.map((e, n) => /* @__PURE__ */ I("rect", {
			x: n * t,
			y: ln * e - 1,
			width: Math.max(1, t - 1),
			height: ln * (1 - e) + 1
		}, n))
	});
}
// src/data/comparison.ts
var dn = class {
	source;
	facts;
	mostChanged;
	pairOfToken;
	numPairs;
	constructor(e) {
		this.source = e, this.facts = e.facts, this.numPairs = e.pairs.shape[0] ?? 0, this.mostChanged = Array.from(e.most_changed.data), this.pairOfToken = [0, 1].map((e) => new Map(Array.from({ length: this.numPairs }, (t, n) => [this.tokenOf(n, e), n])));
	}
	tokenOf(e, t) {
		return this.source.pairs.data[e * 2 + t];
	}
	pairOf(e, t) {
		return this.pairOfToken[e]?.get(t) ?? null;
	}
	tokens(e, t) {
		let n = this.pairOf(e, t);
		return n === null ? e === 0 ? [t, null] : [null, t] : [this.tokenOf(n, 0), this.tokenOf(n, 1)];
	}
	overlap(e, t) {
		return this.source.overlap.data[e * this.numPairs + t];
	}
}, fn = class {
	facts;
	arrays;
	name;
	layers;
	numTokens;
	numChoices;
	scoredRows;
	none;
	constructor(e, t) {
		this.facts = e, this.arrays = t;
		let [, n = 0, r = 0] = t.topk_ids?.shape ?? [];
		this.name = e.name, this.layers = e.layers, this.numTokens = n, this.numChoices = r, this.none = t.topk_ids?.data instanceof Uint8Array ? 255 : 65535, this.scoredRows = new Map(Array.from(t.scored_tokens?.data ?? [], (e, t) => [e, t]));
	}
	layer(e) {
		return this.layers[e];
	}
	numExperts(e) {
		let t = this.layer(e);
		return t.num_experts + t.zero_experts;
	}
	text(e) {
		let t = this.arrays.token_text?.data[e] ?? -1;
		return t < 0 ? null : this.facts.strings[t] ?? null;
	}
	ofToken(e, t) {
		return this.arrays[e]?.data[t] ?? null;
	}
	ofLayer(e, t, n) {
		let r = this.arrays[e]?.data[t * this.numTokens + n];
		return r === void 0 || Number.isNaN(r) ? null : r;
	}
	expertAt(e, t, n) {
		let r = this.arrays.topk_ids?.data[this.slot(e, t, n)] ?? this.none;
		return r === this.none ? -1 : r;
	}
	weightAt(e, t, n) {
		return this.arrays.topk_weights?.data[this.slot(e, t, n)] ?? null;
	}
	isDropped(e, t, n) {
		let r = this.arrays.dropped;
		if (!r) return !1;
		let i = r.shape[2];
		return (r.data[(e * this.numTokens + t) * i + (n >> 3)] >> (n & 7) & 1) == 1;
	}
	choices(e, t) {
		let n = [];
		for (let r = 0; r < this.numChoices; r++) {
			let i = this.expertAt(e, t, r);
			if (i < 0) continue;
			let a = this.arrays.contribution_norms?.data[this.slot(e, t, r)] ?? null;
			n.push({
				expert: i,
				weight: this.weightAt(e, t, r),
				isDropped: this.isDropped(e, t, r),
				norm: a === null || Number.isNaN(a) ? null : a
			});
		}
		return n;
	}
	slot(e, t, n) {
		return (e * this.numTokens + t) * this.numChoices + n;
	}
	scores(e, t) {
		let n = this.arrays.router_scores, r = this.scoredRows.get(t);
		if (!n || r === void 0) return null;
		let [, i = 0, a = 0] = n.shape, o = (e * i + r) * a, s = this.arrays.select_scores ?? n;
		return Array.from({ length: this.numExperts(e) }, (e, t) => ({
			expert: t,
			raw: n.data[o + t],
			ranked: s.data[o + t]
		})).sort((e, t) => e.ranked === t.ranked ? e.expert - t.expert : t.ranked > e.ranked ? 1 : -1);
	}
	scoredTokens() {
		return this.arrays.scored_tokens?.data ?? [];
	}
	counts(e) {
		return pn(this.arrays.counts, e).slice(0, this.numExperts(e));
	}
	loads(e) {
		let t = this.counts(e), n = t.reduce((e, t) => e + t, 0) / t.length;
		return t.map((e) => n ? e / n : 0);
	}
	passRatios(e) {
		return pn(this.arrays.pass_ratio, e).filter(Number.isFinite);
	}
	sequence(e) {
		let t = this.arrays.seq_offsets?.data ?? [0, this.numTokens];
		for (let n = 1; n < t.length; n++) if (e < t[n]) return [t[n - 1], t[n]];
		return [0, this.numTokens];
	}
	pass(e, t) {
		let n = this.ofToken("forward_id", t), [r, i] = this.sequence(t), a = [];
		for (let e = n === null ? r : 0; e < (n === null ? i : this.numTokens); e++) (n === null || this.ofToken("forward_id", e) === n) && a.push(e);
		let o = Array.from({ length: this.numExperts(e) }, () => []);
		for (let t of a) for (let n = 0; n < this.numChoices; n++) {
			let r = this.expertAt(e, t, n);
			r >= 0 && !this.isDropped(e, t, n) && o[r]?.push(t);
		}
		return {
			id: n,
			tokens: a,
			tokensOf: o
		};
	}
};
function pn(e, t) {
	if (!e) return [];
	let n = e.data.length / (e.shape[0] || 1);
	return Array.from(e.data.subarray(t * n, (t + 1) * n));
}
// node_modules/d3-color/dist/d3-color.mjs
function mn(e, t, n) {
	e.prototype = t.prototype = n, n.constructor = e;
}
function hn(e, t) {
	var n = Object.create(e.prototype);
	for (var r in t) n[r] = t[r];
	return n;
}
function gn() {}
var _n = .7, vn = 1 / _n, yn = "\\s*([+-]?\\d+)\\s*", bn = "\\s*([+-]?(?:\\d*\\.)?\\d+(?:[eE][+-]?\\d+)?)\\s*", G = "\\s*([+-]?(?:\\d*\\.)?\\d+(?:[eE][+-]?\\d+)?)%\\s*", xn = /^#([0-9a-f]{3,8})$/, Sn = RegExp(`^rgb\\(${yn},${yn},${yn}\\)$`), Cn = RegExp(`^rgb\\(${G},${G},${G}\\)$`), wn = RegExp(`^rgba\\(${yn},${yn},${yn},${bn}\\)$`), Tn = RegExp(`^rgba\\(${G},${G},${G},${bn}\\)$`), En = RegExp(`^hsl\\(${bn},${G},${G}\\)$`), Dn = RegExp(`^hsla\\(${bn},${G},${G},${bn}\\)$`), On = {
	aliceblue: 15792383,
	antiquewhite: 16444375,
	aqua: 65535,
	aquamarine: 8388564,
	azure: 15794175,
	beige: 16119260,
	bisque: 16770244,
	black: 0,
	blanchedalmond: 16772045,
	blue: 255,
	blueviolet: 9055202,
	brown: 10824234,
	burlywood: 14596231,
	cadetblue: 6266528,
	chartreuse: 8388352,
	chocolate: 13789470,
	coral: 16744272,
	cornflowerblue: 6591981,
	cornsilk: 16775388,
	crimson: 14423100,
	cyan: 65535,
	darkblue: 139,
	darkcyan: 35723,
	darkgoldenrod: 12092939,
	darkgray: 11119017,
	darkgreen: 25600,
	darkgrey: 11119017,
	darkkhaki: 12433259,
	darkmagenta: 9109643,
	darkolivegreen: 5597999,
	darkorange: 16747520,
	darkorchid: 10040012,
	darkred: 9109504,
	darksalmon: 15308410,
	darkseagreen: 9419919,
	darkslateblue: 4734347,
	darkslategray: 3100495,
	darkslategrey: 3100495,
	darkturquoise: 52945,
	darkviolet: 9699539,
	deeppink: 16716947,
	deepskyblue: 49151,
	dimgray: 6908265,
	dimgrey: 6908265,
	dodgerblue: 2003199,
	firebrick: 11674146,
	floralwhite: 16775920,
	forestgreen: 2263842,
	fuchsia: 16711935,
	gainsboro: 14474460,
	ghostwhite: 16316671,
	gold: 16766720,
	goldenrod: 14329120,
	gray: 8421504,
	green: 32768,
	greenyellow: 11403055,
	grey: 8421504,
	honeydew: 15794160,
	hotpink: 16738740,
	indianred: 13458524,
	indigo: 4915330,
	ivory: 16777200,
	khaki: 15787660,
	lavender: 15132410,
	lavenderblush: 16773365,
	lawngreen: 8190976,
	lemonchiffon: 16775885,
	lightblue: 11393254,
	lightcoral: 15761536,
	lightcyan: 14745599,
	lightgoldenrodyellow: 16448210,
	lightgray: 13882323,
	lightgreen: 9498256,
	lightgrey: 13882323,
	lightpink: 16758465,
	lightsalmon: 16752762,
	lightseagreen: 2142890,
	lightskyblue: 8900346,
	lightslategray: 7833753,
	lightslategrey: 7833753,
	lightsteelblue: 11584734,
	lightyellow: 16777184,
	lime: 65280,
	limegreen: 3329330,
	linen: 16445670,
	magenta: 16711935,
	maroon: 8388608,
	mediumaquamarine: 6737322,
	mediumblue: 205,
	mediumorchid: 12211667,
	mediumpurple: 9662683,
	mediumseagreen: 3978097,
	mediumslateblue: 8087790,
	mediumspringgreen: 64154,
	mediumturquoise: 4772300,
	mediumvioletred: 13047173,
	midnightblue: 1644912,
	mintcream: 16121850,
	mistyrose: 16770273,
	moccasin: 16770229,
	navajowhite: 16768685,
	navy: 128,
	oldlace: 16643558,
	olive: 8421376,
	olivedrab: 7048739,
	orange: 16753920,
	orangered: 16729344,
	orchid: 14315734,
	palegoldenrod: 15657130,
	palegreen: 10025880,
	paleturquoise: 11529966,
	palevioletred: 14381203,
	papayawhip: 16773077,
	peachpuff: 16767673,
	peru: 13468991,
	pink: 16761035,
	plum: 14524637,
	powderblue: 11591910,
	purple: 8388736,
	rebeccapurple: 6697881,
	red: 16711680,
	rosybrown: 12357519,
	royalblue: 4286945,
	saddlebrown: 9127187,
	salmon: 16416882,
	sandybrown: 16032864,
	seagreen: 3050327,
	seashell: 16774638,
	sienna: 10506797,
	silver: 12632256,
	skyblue: 8900331,
	slateblue: 6970061,
	slategray: 7372944,
	slategrey: 7372944,
	snow: 16775930,
	springgreen: 65407,
	steelblue: 4620980,
	tan: 13808780,
	teal: 32896,
	thistle: 14204888,
	tomato: 16737095,
	turquoise: 4251856,
	violet: 15631086,
	wheat: 16113331,
	white: 16777215,
	whitesmoke: 16119285,
	yellow: 16776960,
	yellowgreen: 10145074
};
mn(gn, Nn, {
	copy(e) {
		return Object.assign(new this.constructor(), this, e);
	},
	displayable() {
		return this.rgb().displayable();
	},
	hex: kn,
	formatHex: kn,
	formatHex8: An,
	formatHsl: jn,
	formatRgb: Mn,
	toString: Mn
});
function kn() {
	return this.rgb().formatHex();
}
function An() {
	return this.rgb().formatHex8();
}
function jn() {
	return Gn(this).formatHsl();
}
function Mn() {
	return this.rgb().formatRgb();
}
function Nn(e) {
	var t, n;
	return e = (e + "").trim().toLowerCase(), (t = xn.exec(e)) ? (n = t[1].length, t = parseInt(t[1], 16), n === 6 ? Pn(t) : n === 3 ? new K(t >> 8 & 15 | t >> 4 & 240, t >> 4 & 15 | t & 240, (t & 15) << 4 | t & 15, 1) : n === 8 ? Fn(t >> 24 & 255, t >> 16 & 255, t >> 8 & 255, (t & 255) / 255) : n === 4 ? Fn(t >> 12 & 15 | t >> 8 & 240, t >> 8 & 15 | t >> 4 & 240, t >> 4 & 15 | t & 240, ((t & 15) << 4 | t & 15) / 255) : null) : (t = Sn.exec(e)) ? new K(t[1], t[2], t[3], 1) : (t = Cn.exec(e)) ? new K(t[1] * 255 / 100, t[2] * 255 / 100, t[3] * 255 / 100, 1) : (t = wn.exec(e)) ? Fn(t[1], t[2], t[3], t[4]) : (t = Tn.exec(e)) ? Fn(t[1] * 255 / 100, t[2] * 255 / 100, t[3] * 255 / 100, t[4]) : (t = En.exec(e)) ? Wn(t[1], t[2] / 100, t[3] / 100, 1) : (t = Dn.exec(e)) ? Wn(t[1], t[2] / 100, t[3] / 100, t[4]) : On.hasOwnProperty(e) ? Pn(On[e]) : e === "transparent" ? new K(NaN, NaN, NaN, 0) : null;
}
function Pn(e) {
	return new K(e >> 16 & 255, e >> 8 & 255, e & 255, 1);
}
function Fn(e, t, n, r) {
	return r <= 0 && (e = t = n = NaN), new K(e, t, n, r);
}
function In(e) {
	return e instanceof gn || (e = Nn(e)), e ? (e = e.rgb(), new K(e.r, e.g, e.b, e.opacity)) : new K();
}
function Ln(e, t, n, r) {
	return arguments.length === 1 ? In(e) : new K(e, t, n, r ?? 1);
}
function K(e, t, n, r) {
	this.r = +e, this.g = +t, this.b = +n, this.opacity = +r;
}
mn(K, Ln, hn(gn, {
	brighter(e) {
		return e = e == null ? vn : vn ** +e, new K(this.r * e, this.g * e, this.b * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? _n : _n ** +e, new K(this.r * e, this.g * e, this.b * e, this.opacity);
	},
	rgb() {
		return this;
	},
	clamp() {
		return new K(Hn(this.r), Hn(this.g), Hn(this.b), Vn(this.opacity));
	},
	displayable() {
		return -.5 <= this.r && this.r < 255.5 && -.5 <= this.g && this.g < 255.5 && -.5 <= this.b && this.b < 255.5 && 0 <= this.opacity && this.opacity <= 1;
	},
	hex: Rn,
	formatHex: Rn,
	formatHex8: zn,
	formatRgb: Bn,
	toString: Bn
}));
function Rn() {
	return `#${Un(this.r)}${Un(this.g)}${Un(this.b)}`;
}
function zn() {
	return `#${Un(this.r)}${Un(this.g)}${Un(this.b)}${Un((isNaN(this.opacity) ? 1 : this.opacity) * 255)}`;
}
function Bn() {
	let e = Vn(this.opacity);
	return `${e === 1 ? "rgb(" : "rgba("}${Hn(this.r)}, ${Hn(this.g)}, ${Hn(this.b)}${e === 1 ? ")" : `, ${e})`}`;
}
function Vn(e) {
	return isNaN(e) ? 1 : Math.max(0, Math.min(1, e));
}
function Hn(e) {
	return Math.max(0, Math.min(255, Math.round(e) || 0));
}
function Un(e) {
	return e = Hn(e), (e < 16 ? "0" : "") + e.toString(16);
}
function Wn(e, t, n, r) {
	return r <= 0 ? e = t = n = NaN : n <= 0 || n >= 1 ? e = t = NaN : t <= 0 && (e = NaN), new q(e, t, n, r);
}
function Gn(e) {
	if (e instanceof q) return new q(e.h, e.s, e.l, e.opacity);
	if (e instanceof gn || (e = Nn(e)), !e) return new q();
	if (e instanceof q) return e;
	e = e.rgb();
	var t = e.r / 255, n = e.g / 255, r = e.b / 255, i = Math.min(t, n, r), a = Math.max(t, n, r), o = NaN, s = a - i, c = (a + i) / 2;
	return s ? (o = t === a ? (n - r) / s + (n < r) * 6 : n === a ? (r - t) / s + 2 : (t - n) / s + 4, s /= c < .5 ? a + i : 2 - a - i, o *= 60) : s = c > 0 && c < 1 ? 0 : o, new q(o, s, c, e.opacity);
}
function Kn(e, t, n, r) {
	return arguments.length === 1 ? Gn(e) : new q(e, t, n, r ?? 1);
}
function q(e, t, n, r) {
	this.h = +e, this.s = +t, this.l = +n, this.opacity = +r;
}
mn(q, Kn, hn(gn, {
	brighter(e) {
		return e = e == null ? vn : vn ** +e, new q(this.h, this.s, this.l * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? _n : _n ** +e, new q(this.h, this.s, this.l * e, this.opacity);
	},
	rgb() {
		var e = this.h % 360 + (this.h < 0) * 360, t = isNaN(e) || isNaN(this.s) ? 0 : this.s, n = this.l, r = n + (n < .5 ? n : 1 - n) * t, i = 2 * n - r;
		return new K(Yn(e >= 240 ? e - 240 : e + 120, i, r), Yn(e, i, r), Yn(e < 120 ? e + 240 : e - 120, i, r), this.opacity);
	},
	clamp() {
		return new q(qn(this.h), Jn(this.s), Jn(this.l), Vn(this.opacity));
	},
	displayable() {
		return (0 <= this.s && this.s <= 1 || isNaN(this.s)) && 0 <= this.l && this.l <= 1 && 0 <= this.opacity && this.opacity <= 1;
	},
	formatHsl() {
		let e = Vn(this.opacity);
		return `${e === 1 ? "hsl(" : "hsla("}${qn(this.h)}, ${Jn(this.s) * 100}%, ${Jn(this.l) * 100}%${e === 1 ? ")" : `, ${e})`}`;
	}
}));
function qn(e) {
	return e = (e || 0) % 360, e < 0 ? e + 360 : e;
}
function Jn(e) {
	return Math.max(0, Math.min(1, e || 0));
}
function Yn(e, t, n) {
	return (e < 60 ? t + (n - t) * e / 60 : e < 180 ? n : e < 240 ? t + (n - t) * (240 - e) / 60 : t) * 255;
}
var Xn = Math.PI / 180, Zn = 180 / Math.PI, Qn = 18, $n = .96422, er = 1, tr = .82521, nr = 4 / 29, rr = 6 / 29, ir = 3 * rr * rr, ar = rr * rr * rr;
function or(e) {
	if (e instanceof J) return new J(e.l, e.a, e.b, e.opacity);
	if (e instanceof Y) return mr(e);
	e instanceof K || (e = In(e));
	var t = dr(e.r), n = dr(e.g), r = dr(e.b), i = cr((.2225045 * t + .7168786 * n + .0606169 * r) / er), a, o;
	return t === n && n === r ? a = o = i : (a = cr((.4360747 * t + .3850649 * n + .1430804 * r) / $n), o = cr((.0139322 * t + .0971045 * n + .7141733 * r) / tr)), new J(116 * i - 16, 500 * (a - i), 200 * (i - o), e.opacity);
}
function sr(e, t, n, r) {
	return arguments.length === 1 ? or(e) : new J(e, t, n, r ?? 1);
}
function J(e, t, n, r) {
	this.l = +e, this.a = +t, this.b = +n, this.opacity = +r;
}
mn(J, sr, hn(gn, {
	brighter(e) {
		return new J(this.l + Qn * (e ?? 1), this.a, this.b, this.opacity);
	},
	darker(e) {
		return new J(this.l - Qn * (e ?? 1), this.a, this.b, this.opacity);
	},
	rgb() {
		var e = (this.l + 16) / 116, t = isNaN(this.a) ? e : e + this.a / 500, n = isNaN(this.b) ? e : e - this.b / 200;
		return t = $n * lr(t), e = er * lr(e), n = tr * lr(n), new K(ur(3.1338561 * t - 1.6168667 * e - .4906146 * n), ur(-.9787684 * t + 1.9161415 * e + .033454 * n), ur(.0719453 * t - .2289914 * e + 1.4052427 * n), this.opacity);
	}
}));
function cr(e) {
	return e > ar ? e ** (1 / 3) : e / ir + nr;
}
function lr(e) {
	return e > rr ? e * e * e : ir * (e - nr);
}
function ur(e) {
	return 255 * (e <= .0031308 ? 12.92 * e : 1.055 * e ** (1 / 2.4) - .055);
}
function dr(e) {
	return (e /= 255) <= .04045 ? e / 12.92 : ((e + .055) / 1.055) ** 2.4;
}
function fr(e) {
	if (e instanceof Y) return new Y(e.h, e.c, e.l, e.opacity);
	if (e instanceof J || (e = or(e)), e.a === 0 && e.b === 0) return new Y(NaN, 0 < e.l && e.l < 100 ? 0 : NaN, e.l, e.opacity);
	var t = Math.atan2(e.b, e.a) * Zn;
	return new Y(t < 0 ? t + 360 : t, Math.sqrt(e.a * e.a + e.b * e.b), e.l, e.opacity);
}
function pr(e, t, n, r) {
	return arguments.length === 1 ? fr(e) : new Y(e, t, n, r ?? 1);
}
function Y(e, t, n, r) {
	this.h = +e, this.c = +t, this.l = +n, this.opacity = +r;
}
function mr(e) {
	if (isNaN(e.h)) return new J(e.l, 0, 0, e.opacity);
	var t = e.h * Xn;
	return new J(e.l, Math.cos(t) * e.c, Math.sin(t) * e.c, e.opacity);
}
mn(Y, pr, hn(gn, {
	brighter(e) {
		return new Y(this.h, this.c, this.l + Qn * (e ?? 1), this.opacity);
	},
	darker(e) {
		return new Y(this.h, this.c, this.l - Qn * (e ?? 1), this.opacity);
	},
	rgb() {
		return mr(this).rgb();
	}
}));
var hr = -.14861, gr = 1.78277, _r = -.29227, vr = -.90649, yr = 1.97294, br = yr * vr, xr = yr * gr, Sr = gr * _r - vr * hr;
function Cr(e) {
	if (e instanceof Tr) return new Tr(e.h, e.s, e.l, e.opacity);
	e instanceof K || (e = In(e));
	var t = e.r / 255, n = e.g / 255, r = e.b / 255, i = (Sr * r + br * t - xr * n) / (Sr + br - xr), a = r - i, o = (yr * (n - i) - _r * a) / vr, s = Math.sqrt(o * o + a * a) / (yr * i * (1 - i)), c = s ? Math.atan2(o, a) * Zn - 120 : NaN;
	return new Tr(c < 0 ? c + 360 : c, s, i, e.opacity);
}
function wr(e, t, n, r) {
	return arguments.length === 1 ? Cr(e) : new Tr(e, t, n, r ?? 1);
}
function Tr(e, t, n, r) {
	this.h = +e, this.s = +t, this.l = +n, this.opacity = +r;
}
mn(Tr, wr, hn(gn, {
	brighter(e) {
		return e = e == null ? vn : vn ** +e, new Tr(this.h, this.s, this.l * e, this.opacity);
	},
	darker(e) {
		return e = e == null ? _n : _n ** +e, new Tr(this.h, this.s, this.l * e, this.opacity);
	},
	rgb() {
		var e = isNaN(this.h) ? 0 : (this.h + 120) * Xn, t = +this.l, n = isNaN(this.s) ? 0 : this.s * t * (1 - t), r = Math.cos(e), i = Math.sin(e);
		return new K(255 * (t + n * (hr * r + gr * i)), 255 * (t + n * (_r * r + vr * i)), 255 * (t + yr * r * n), this.opacity);
	}
}));
var Er = (e) => () => e;
function Dr(e, t) {
	return function(n) {
		return e + n * t;
	};
}
function Or(e, t, n) {
	return e **= +n, t = t ** +n - e, n = 1 / n, function(r) {
		return (e + r * t) ** +n;
	};
}
function kr(e, t) {
	var n = t - e;
	return n ? Dr(e, n > 180 || n < -180 ? n - 360 * Math.round(n / 360) : n) : Er(isNaN(e) ? t : e);
}
function Ar(e) {
	return (e = +e) == 1 ? jr : function(t, n) {
		return n - t ? Or(t, n, e) : Er(isNaN(t) ? n : t);
	};
}
function jr(e, t) {
	var n = t - e;
	return n ? Dr(e, n) : Er(isNaN(e) ? t : e);
}
var Mr = (function e(t) {
	var n = Ar(t);
	function r(e, t) {
		var r = n((e = Ln(e)).r, (t = Ln(t)).r), i = n(e.g, t.g), a = n(e.b, t.b), o = jr(e.opacity, t.opacity);
		return function(t) {
			return e.r = r(t), e.g = i(t), e.b = a(t), e.opacity = o(t), e + "";
		};
	}
	return r.gamma = e, r;
})(1);
function Nr(e, t) {
	t ||= [];
	var n = e ? Math.min(t.length, e.length) : 0, r = t.slice(), i;
	return function(a) {
		for (i = 0; i < n; ++i) r[i] = e[i] * (1 - a) + t[i] * a;
		return r;
	};
}
function Pr(e) {
	return ArrayBuffer.isView(e) && !(e instanceof DataView);
}
function Fr(e, t) {
	for (var n = t ? t.length : 0, r = e ? Math.min(n, e.length) : 0, i = Array(r), a = Array(n), o = 0; o < r; ++o) i[o] = Wr(e[o], t[o]);
	for (; o < n; ++o) a[o] = t[o];
	return function(e) {
		for (o = 0; o < r; ++o) a[o] = i[o](e);
		return a;
	};
}
function Ir(e, t) {
	var n = /* @__PURE__ */ new Date();
	return e = +e, t = +t, function(r) {
		return n.setTime(e * (1 - r) + t * r), n;
	};
}
function Lr(e, t) {
	return e = +e, t = +t, function(n) {
		return e * (1 - n) + t * n;
	};
}
function Rr(e, t) {
	var n = {}, r = {}, i;
	for (i in typeof e == "object" && e || (e = {}), typeof t == "object" && t || (t = {}), t) i in e ? n[i] = Wr(e[i], t[i]) : r[i] = t[i];
	return function(e) {
		for (i in n) r[i] = n[i](e);
		return r;
	};
}
var zr = /[-+]?(?:\d+\.?\d*|\.?\d+)(?:[eE][-+]?\d+)?/g, Br = new RegExp(zr.source, "g");
function Vr(e) {
	return function() {
		return e;
	};
}
function Hr(e) {
	return function(t) {
		return e(t) + "";
	};
}
function Ur(e, t) {
	var n = zr.lastIndex = Br.lastIndex = 0, r, i, a, o = -1, s = [], c = [];
	for (e += "", t += ""; (r = zr.exec(e)) && (i = Br.exec(t));) (a = i.index) > n && (a = t.slice(n, a), s[o] ? s[o] += a : s[++o] = a), (r = r[0]) === (i = i[0]) ? s[o] ? s[o] += i : s[++o] = i : (s[++o] = null, c.push({
		i: o,
		x: Lr(r, i)
	})), n = Br.lastIndex;
	return n < t.length && (a = t.slice(n), s[o] ? s[o] += a : s[++o] = a), s.length < 2 ? c[0] ? Hr(c[0].x) : Vr(t) : (t = c.length, function(e) {
		for (var n = 0, r; n < t; ++n) s[(r = c[n]).i] = r.x(e);
		return s.join("");
	});
}
function Wr(e, t) {
	var n = typeof t, r;
	return t == null || n === "boolean" ? Er(t) : (n === "number" ? Lr : n === "string" ? (r = Nn(t)) ? (t = r, Mr) : Ur : t instanceof Nn ? Mr : t instanceof Date ? Ir : Pr(t) ? Nr : Array.isArray(t) ? Fr : typeof t.valueOf != "function" && typeof t.toString != "function" || isNaN(t) ? Rr : Lr)(e, t);
}
function Gr(e, t) {
	return e = +e, t = +t, function(n) {
		return Math.round(e * (1 - n) + t * n);
	};
}
var Kr = 1e-12;
function qr(e) {
	return ((e = Math.exp(e)) + 1 / e) / 2;
}
function Jr(e) {
	return ((e = Math.exp(e)) - 1 / e) / 2;
}
function Yr(e) {
	return ((e = Math.exp(2 * e)) - 1) / (e + 1);
}
(function e(t, n, r) {
	function i(e, i) {
		var a = e[0], o = e[1], s = e[2], c = i[0], l = i[1], u = i[2], d = c - a, f = l - o, p = d * d + f * f, m, h;
		if (p < Kr) h = Math.log(u / s) / t, m = function(e) {
			return [
				a + e * d,
				o + e * f,
				s * Math.exp(t * e * h)
			];
		};
		else {
			var g = Math.sqrt(p), _ = (u * u - s * s + r * p) / (2 * s * n * g), v = (u * u - s * s - r * p) / (2 * u * n * g), y = Math.log(Math.sqrt(_ * _ + 1) - _);
			h = (Math.log(Math.sqrt(v * v + 1) - v) - y) / t, m = function(e) {
				var r = e * h, i = qr(y), c = s / (n * g) * (i * Yr(t * r + y) - Jr(y));
				return [
					a + c * d,
					o + c * f,
					s * i / qr(t * r + y)
				];
			};
		}
		return m.duration = Math.abs(h) * 1e3 * t / Math.SQRT2, m;
	}
	return i.rho = function(t) {
		var n = Math.max(.001, +t), r = n * n;
		return e(n, r, r * r);
	}, i;
})(Math.SQRT2, 2, 4);
function Xr(e) {
	return (function t(n) {
		n = +n;
		function r(t, r) {
			var i = e((t = wr(t)).h, (r = wr(r)).h), a = jr(t.s, r.s), o = jr(t.l, r.l), s = jr(t.opacity, r.opacity);
			return function(e) {
				return t.h = i(e), t.s = a(e), t.l = o(e ** +n), t.opacity = s(e), t + "";
			};
		}
		return r.gamma = t, r;
	})(1);
}
Xr(kr), Xr(jr);
// node_modules/d3-scale/dist/d3-scale.mjs
function Zr(e, t) {
	switch (arguments.length) {
		case 0: break;
		case 1:
			this.range(e);
			break;
		default: this.range(t).domain(e);
	}
	return this;
}
function Qr(e) {
	return function() {
		return e;
	};
}
function $r(e) {
	return +e;
}
var ei = [0, 1];
function ti(e) {
	return e;
}
function ni(e, t) {
	return (t -= e = +e) ? function(n) {
		return (n - e) / t;
	} : Qr(isNaN(t) ? NaN : .5);
}
function ri(e, t) {
	var n;
	return e > t && (n = e, e = t, t = n), function(n) {
		return Math.max(e, Math.min(t, n));
	};
}
function ii(e, t, n) {
	var r = e[0], i = e[1], a = t[0], o = t[1];
	return i < r ? (r = ni(i, r), a = n(o, a)) : (r = ni(r, i), a = n(a, o)), function(e) {
		return a(r(e));
	};
}
function ai(e, t, n) {
	var r = Math.min(e.length, t.length) - 1, i = Array(r), a = Array(r), o = -1;
	for (e[r] < e[0] && (e = e.slice().reverse(), t = t.slice().reverse()); ++o < r;) i[o] = ni(e[o], e[o + 1]), a[o] = n(t[o], t[o + 1]);
	return function(t) {
		var n = Ze(e, t, 1, r) - 1;
		return a[n](i[n](t));
	};
}
function oi(e, t) {
	return t.domain(e.domain()).range(e.range()).interpolate(e.interpolate()).clamp(e.clamp()).unknown(e.unknown());
}
function si() {
	var e = ei, t = ei, n = Wr, r, i, a, o = ti, s, c, l;
	function u() {
		var n = Math.min(e.length, t.length);
		return o !== ti && (o = ri(e[0], e[n - 1])), s = n > 2 ? ai : ii, c = l = null, d;
	}
	function d(i) {
		return i == null || isNaN(i = +i) ? a : (c ||= s(e.map(r), t, n))(r(o(i)));
	}
	return d.invert = function(n) {
		return o(i((l ||= s(t, e.map(r), Lr))(n)));
	}, d.domain = function(t) {
		return arguments.length ? (e = Array.from(t, $r), u()) : e.slice();
	}, d.range = function(e) {
		return arguments.length ? (t = Array.from(e), u()) : t.slice();
	}, d.rangeRound = function(e) {
		return t = Array.from(e), n = Gr, u();
	}, d.clamp = function(e) {
		return arguments.length ? (o = e ? !0 : ti, u()) : o !== ti;
	}, d.interpolate = function(e) {
		return arguments.length ? (n = e, u()) : n;
	}, d.unknown = function(e) {
		return arguments.length ? (a = e, d) : a;
	}, function(e, t) {
		return r = e, i = t, u();
	};
}
function ci() {
	return si()(ti, ti);
}
function li(e, t, n, r) {
	var i = lt(e, t, n), a;
	switch (r = Ct(r ?? ",f"), r.type) {
		case "s":
			var o = Math.max(Math.abs(e), Math.abs(t));
			return r.precision == null && !isNaN(a = Rt(i, o)) && (r.precision = a), Ft(r, o);
		case "":
		case "e":
		case "g":
		case "p":
		case "r":
			r.precision == null && !isNaN(a = zt(i, Math.max(Math.abs(e), Math.abs(t)))) && (r.precision = a - (r.type === "e"));
			break;
		case "f":
		case "%": r.precision == null && !isNaN(a = Lt(i)) && (r.precision = a - (r.type === "%") * 2);
	}
	return R(r);
}
function ui(e) {
	var t = e.domain;
	return e.ticks = function(e) {
		var n = t();
		return st(n[0], n[n.length - 1], e ?? 10);
	}, e.tickFormat = function(e, n) {
		var r = t();
		return li(r[0], r[r.length - 1], e ?? 10, n);
	}, e.nice = function(n) {
		n ??= 10;
		var r = t(), i = 0, a = r.length - 1, o = r[i], s = r[a], c, l, u = 10;
		for (s < o && (l = o, o = s, s = l, l = i, i = a, a = l); u-- > 0;) {
			if (l = ct(o, s, n), l === c) return r[i] = o, r[a] = s, t(r);
			if (l > 0) o = Math.floor(o / l) * l, s = Math.ceil(s / l) * l;
			else if (l < 0) o = Math.ceil(o * l) / l, s = Math.floor(s * l) / l;
			else break;
			c = l;
		}
		return e;
	}, e;
}
function X() {
	var e = ci();
	return e.copy = function() {
		return oi(e, X());
	}, Zr.apply(e, arguments), ui(e);
}
function di(e, t) {
	e = e.slice();
	var n = 0, r = e.length - 1, i = e[n], a = e[r], o;
	return a < i && (o = n, n = r, r = o, o = i, i = a, a = o), e[n] = t.floor(i), e[r] = t.ceil(a), e;
}
function fi(e) {
	return Math.log(e);
}
function pi(e) {
	return Math.exp(e);
}
function mi(e) {
	return -Math.log(-e);
}
function hi(e) {
	return -Math.exp(-e);
}
function gi(e) {
	return isFinite(e) ? +("1e" + e) : e < 0 ? 0 : e;
}
function _i(e) {
	return e === 10 ? gi : e === Math.E ? Math.exp : (t) => e ** +t;
}
function vi(e) {
	return e === Math.E ? Math.log : e === 10 && Math.log10 || e === 2 && Math.log2 || (e = Math.log(e), (t) => Math.log(t) / e);
}
function yi(e) {
	return (t, n) => -e(-t, n);
}
function bi(e) {
	let t = e(fi, pi), n = t.domain, r = 10, i, a;
	function o() {
		return i = vi(r), a = _i(r), n()[0] < 0 ? (i = yi(i), a = yi(a), e(mi, hi)) : e(fi, pi), t;
	}
	return t.base = function(e) {
		return arguments.length ? (r = +e, o()) : r;
	}, t.domain = function(e) {
		return arguments.length ? (n(e), o()) : n();
	}, t.ticks = (e) => {
		let t = n(), o = t[0], s = t[t.length - 1], c = s < o;
		c && ([o, s] = [s, o]);
		let l = i(o), u = i(s), d, f, p = e == null ? 10 : +e, m = [];
		if (!(r % 1) && u - l < p) {
			if (l = Math.floor(l), u = Math.ceil(u), o > 0) {
				for (; l <= u; ++l) for (d = 1; d < r; ++d) if (f = l < 0 ? d / a(-l) : d * a(l), !(f < o)) {
					if (f > s) break;
					m.push(f);
				}
			} else for (; l <= u; ++l) for (d = r - 1; d >= 1; --d) if (f = l > 0 ? d / a(-l) : d * a(l), !(f < o)) {
				if (f > s) break;
				m.push(f);
			}
			m.length * 2 < p && (m = st(o, s, p));
		} else m = st(l, u, Math.min(u - l, p)).map(a);
		return c ? m.reverse() : m;
	}, t.tickFormat = (e, n) => {
		if (e ??= 10, n ??= r === 10 ? "s" : ",", typeof n != "function" && (!(r % 1) && (n = Ct(n)).precision == null && (n.trim = !0), n = R(n)), e === Infinity) return n;
		let o = Math.max(1, r * e / t.ticks().length);
		return (e) => {
			let t = e / a(Math.round(i(e)));
			return t * r < r - .5 && (t *= r), t <= o ? n(e) : "";
		};
	}, t.nice = () => n(di(n(), {
		floor: (e) => a(Math.floor(i(e))),
		ceil: (e) => a(Math.ceil(i(e)))
	})), t;
}
function xi() {
	let e = bi(si()).domain([1, 10]);
	return e.copy = () => oi(e, xi()).base(e.base()), Zr.apply(e, arguments), e;
}
// src/draw/palette.ts
function Si(e, t) {
	let n = X().domain([
		-2,
		-1,
		0,
		1,
		2
	]).range(e).clamp(!0);
	return (e) => e > 0 ? n(Math.log2(e)) : t;
}
var Ci = {
	light: {
		ink: "#1c1e22",
		muted: "#5a5f69",
		rule: "#dcd8cf",
		accent: "#a8420a",
		paper: "#fbfaf7",
		dead: "#0d0f13",
		load: Si([
			"#24507f",
			"#7fa3c7",
			"#ece8df",
			"#eea25a",
			"#b3480b"
		], "#0d0f13")
	},
	dark: {
		ink: "#ebe8e1",
		muted: "#a3a7af",
		rule: "#33373e",
		accent: "#ffa24d",
		paper: "#15171b",
		dead: "#000000",
		load: Si([
			"#1d4d86",
			"#35597f",
			"#565a60",
			"#b4773a",
			"#ffb04a"
		], "#000000")
	}
};
// src/draw/theme.ts
function wi(e) {
	let [t, n] = P(() => matchMedia(e).matches);
	return De(() => {
		let t = matchMedia(e), r = () => n(t.matches);
		return r(), t.addEventListener("change", r), () => t.removeEventListener("change", r);
	}, [e]), t;
}
function Ti(e) {
	let t = wi("(prefers-color-scheme: dark)");
	return wi("print") ? "light" : e === "auto" ? t ? "dark" : "light" : e;
}
var Ei = j("light");
function Di() {
	return Ci[je(Ei)];
}
// src/map/orders.ts
function Oi(e, t) {
	return e.layers.map((n, r) => {
		let i = e.counts(r), a = i.map((e, t) => t);
		return t ? a.sort((e, t) => i[t] - i[e] || e - t) : a;
	});
}
function ki(e, t, n) {
	let r = e.counts(t)[n] ?? 0, i = e.loads(t)[n] ?? 0, a = r ? `${z(r)} rows, ${B(i)} an even share` : "no rows, never used";
	return `Layer ${e.layer(t).index}, expert ${n}: ${a}.`;
}
// src/experts/facts.ts
function Ai(e, t, n) {
	let { arrays: r, facts: i } = e, a = ji(r.top_tokens, t, n), o = ji(r.top_token_counts, t, n), s = ji(r.top_token_lift, t, n), c = ji(r.partner_lift, t, n);
	return {
		expert: n,
		rows: e.counts(t)[n] ?? 0,
		load: e.loads(t)[n] ?? 0,
		tokens: a.map((e, t) => ({
			text: i.strings[e],
			count: o[t] ?? 0,
			lift: s[t] ?? 0
		})).filter(({ text: e, count: t }) => e !== void 0 && t > 0).map(({ text: e, count: t, lift: n }) => ({
			text: W(e ?? null, null),
			count: t,
			lift: n
		})),
		partners: ji(r.partners, t, n).map((e, t) => ({
			expert: e,
			lift: c[t] ?? 0
		})).filter(({ expert: n, lift: r }) => n < e.numExperts(t) && r > 0),
		bins: ji(r.load_bins, t, n).map((n) => n * e.layer(t).num_experts)
	};
}
function ji(e, t, n) {
	if (!e) return [];
	let r = e.shape[2] ?? 1;
	return pn(e, t).slice(n * r, (n + 1) * r);
}
function Mi(e, t) {
	let [n] = pn(e.arrays.specialisation, t), [r] = pn(e.arrays.specialisation_baseline, t);
	if (n === void 0 || r === void 0 || Number.isNaN(n)) return null;
	let i = `Which token it is tells ${H(n)} nats about which expert takes it`;
	return n > r ? `${i}; with the tokens shuffled it is ${H(r)}, so only what lies above that is specialisation.` : `${i}, no more than with the tokens shuffled (${H(r)}): no specialisation on single tokens shows.`;
}
// node_modules/d3-path/dist/d3-path.mjs
var Ni = Math.PI, Pi = 2 * Ni, Fi = 1e-6, Ii = Pi - Fi;
function Li(e) {
	this._ += e[0];
	for (let t = 1, n = e.length; t < n; ++t) this._ += arguments[t] + e[t];
}
function Ri(e) {
	let t = Math.floor(e);
	if (!(t >= 0)) throw Error(`invalid digits: ${e}`);
	if (t > 15) return Li;
	let n = 10 ** t;
	return function(e) {
		this._ += e[0];
		for (let t = 1, r = e.length; t < r; ++t) this._ += Math.round(arguments[t] * n) / n + e[t];
	};
}
function zi(e, t, n, r) {
	return e === n && t === r;
}
function Bi(e) {
	let t = Math.floor(e);
	if (!(t <= 15)) return zi;
	let n = 10 ** t, r = function(e) {
		return Math.round(e * n);
	};
	return function(e, t, n, i) {
		return r(e) === r(n) && r(t) === r(i);
	};
}
var Vi = class {
	constructor(e) {
		this._x0 = this._y0 = this._x1 = this._y1 = null, this._ = "", this._append = e == null ? Li : Ri(e), this._equal = e == null ? zi : Bi(e);
	}
	moveTo(e, t) {
		this._append`M${this._x0 = this._x1 = +e},${this._y0 = this._y1 = +t}`;
	}
	closePath() {
		this._x1 !== null && (this._x1 = this._x0, this._y1 = this._y0, this._append`Z`);
	}
	lineTo(e, t) {
		this._append`L${this._x1 = +e},${this._y1 = +t}`;
	}
	quadraticCurveTo(e, t, n, r) {
		this._append`Q${+e},${+t},${this._x1 = +n},${this._y1 = +r}`;
	}
	bezierCurveTo(e, t, n, r, i, a) {
		this._append`C${+e},${+t},${+n},${+r},${this._x1 = +i},${this._y1 = +a}`;
	}
	arcTo(e, t, n, r, i) {
		if (e = +e, t = +t, n = +n, r = +r, i = +i, i < 0) throw Error(`negative radius: ${i}`);
		let a = this._x1, o = this._y1, s = n - e, c = r - t, l = a - e, u = o - t, d = l * l + u * u;
		if (this._x1 === null) this._append`M${this._x1 = e},${this._y1 = t}`;
		else if (d > Fi) {
			if (!(Math.abs(u * s - c * l) > Fi) || !i) this._append`L${this._x1 = e},${this._y1 = t}`;
			else {
				let f = n - a, p = r - o, m = s * s + c * c, h = f * f + p * p, g = Math.sqrt(m), _ = Math.sqrt(d), v = i * Math.tan((Ni - Math.acos((m + d - h) / (2 * g * _))) / 2), y = v / _, b = v / g;
				Math.abs(y - 1) > Fi && this._append`L${e + y * l},${t + y * u}`, this._append`A${i},${i},0,0,${+(u * f > l * p)},${this._x1 = e + b * s},${this._y1 = t + b * c}`;
			}
		}
	}
	arc(e, t, n, r, i, a) {
		if (e = +e, t = +t, n = +n, a = !!a, n < 0) throw Error(`negative radius: ${n}`);
		let o = n * Math.cos(r), s = n * Math.sin(r), c = e + o, l = t + s, u = 1 ^ a, d = a ? r - i : i - r;
		if (this._x1 === null ? this._append`M${c},${l}` : (Math.abs(this._x1 - c) > Fi || Math.abs(this._y1 - l) > Fi) && this._append`L${c},${l}`, n) {
			if (d < 0 && (d = d % Pi + Pi), d > Ii) this._append`A${n},${n},0,1,${u},${e - o},${t - s}A${n},${n},0,1,${u},${this._x1 = c},${this._y1 = l}`;
			else if (d > Fi) {
				let a = e + n * Math.cos(i), o = t + n * Math.sin(i);
				if (d >= Ni && this._equal(c, l, a, o)) {
					d /= 2;
					let i = r + d;
					this._append`A${n},${n},0,${+(d >= Ni)},${u},${e + n * Math.cos(i)},${t + n * Math.sin(i)}`;
				}
				this._append`A${n},${n},0,${+(d >= Ni)},${u},${this._x1 = a},${this._y1 = o}`;
			}
		}
	}
	rect(e, t, n, r) {
		this._append`M${this._x0 = this._x1 = +e},${this._y0 = this._y1 = +t}h${n = +n}v${+r}h${-n}Z`;
	}
	toString() {
		return this._;
	}
};
Vi.prototype;
// node_modules/d3-shape/dist/d3-shape.mjs
function Z(e) {
	return function() {
		return e;
	};
}
var Hi = Math.cos, Ui = Math.sin, Wi = Math.sqrt, Gi = 1e-12, Ki = Math.PI;
Ki / 2;
var qi = 2 * Ki;
function Ji(e) {
	let t = 3;
	return e.digits = function(n) {
		if (!arguments.length) return t;
		if (n == null) t = null;
		else {
			let e = Math.floor(n);
			if (!(e >= 0)) throw RangeError(`invalid digits: ${n}`);
			t = e;
		}
		return e;
	}, () => new Vi(t);
}
Array.prototype.slice;
function Yi(e) {
	return typeof e == "object" && "length" in e ? e : Array.from(e);
}
function Xi(e) {
	this._context = e;
}
Xi.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1: this._point = 2;
			default: this._context.lineTo(e, t);
		}
	}
};
function Zi(e) {
	return new Xi(e);
}
function Qi(e) {
	return e[0];
}
function $i(e) {
	return e[1];
}
function ea(e, t) {
	var n = Z(!0), r = null, i = Zi, a = null, o = Ji(s);
	e = typeof e == "function" ? e : e === void 0 ? Qi : Z(e), t = typeof t == "function" ? t : t === void 0 ? $i : Z(t);
	function s(s) {
		var c, l = (s = Yi(s)).length, u, d = !1, f;
		for (r ?? (a = i(f = o())), c = 0; c <= l; ++c) !(c < l && n(u = s[c], c, s)) === d && ((d = !d) ? a.lineStart() : a.lineEnd()), d && a.point(+e(u, c, s), +t(u, c, s));
		if (f) return a = null, f + "" || null;
	}
	return s.x = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Z(+t), s) : e;
	}, s.y = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Z(+e), s) : t;
	}, s.defined = function(e) {
		return arguments.length ? (n = typeof e == "function" ? e : Z(!!e), s) : n;
	}, s.curve = function(e) {
		return arguments.length ? (i = e, r != null && (a = i(r)), s) : i;
	}, s.context = function(e) {
		return arguments.length ? (e == null ? r = a = null : a = i(r = e), s) : r;
	}, s;
}
function ta(e, t, n) {
	var r = null, i = Z(!0), a = null, o = Zi, s = null, c = Ji(l);
	e = typeof e == "function" ? e : e === void 0 ? Qi : Z(+e), t = typeof t == "function" ? t : Z(t === void 0 ? 0 : +t), n = typeof n == "function" ? n : n === void 0 ? $i : Z(+n);
	function l(l) {
		var u, d, f, p = (l = Yi(l)).length, m, h = !1, g, _ = Array(p), v = Array(p);
		for (a ?? (s = o(g = c())), u = 0; u <= p; ++u) {
			if (!(u < p && i(m = l[u], u, l)) === h) {
				if (h = !h) d = u, s.areaStart(), s.lineStart();
				else {
					for (s.lineEnd(), s.lineStart(), f = u - 1; f >= d; --f) s.point(_[f], v[f]);
					s.lineEnd(), s.areaEnd();
				}
			}
			h && (_[u] = +e(m, u, l), v[u] = +t(m, u, l), s.point(r ? +r(m, u, l) : _[u], n ? +n(m, u, l) : v[u]));
		}
		if (g) return s = null, g + "" || null;
	}
	function u() {
		return ea().defined(i).curve(o).context(a);
	}
	return l.x = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Z(+t), r = null, l) : e;
	}, l.x0 = function(t) {
		return arguments.length ? (e = typeof t == "function" ? t : Z(+t), l) : e;
	}, l.x1 = function(e) {
		return arguments.length ? (r = e == null ? null : typeof e == "function" ? e : Z(+e), l) : r;
	}, l.y = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Z(+e), n = null, l) : t;
	}, l.y0 = function(e) {
		return arguments.length ? (t = typeof e == "function" ? e : Z(+e), l) : t;
	}, l.y1 = function(e) {
		return arguments.length ? (n = e == null ? null : typeof e == "function" ? e : Z(+e), l) : n;
	}, l.lineX0 = l.lineY0 = function() {
		return u().x(e).y(t);
	}, l.lineY1 = function() {
		return u().x(e).y(n);
	}, l.lineX1 = function() {
		return u().x(r).y(t);
	}, l.defined = function(e) {
		return arguments.length ? (i = typeof e == "function" ? e : Z(!!e), l) : i;
	}, l.curve = function(e) {
		return arguments.length ? (o = e, a != null && (s = o(a)), l) : o;
	}, l.context = function(e) {
		return arguments.length ? (e == null ? a = s = null : s = o(a = e), l) : a;
	}, l;
}
ra(Zi);
function na(e) {
	this._curve = e;
}
na.prototype = {
	areaStart: function() {
		this._curve.areaStart();
	},
	areaEnd: function() {
		this._curve.areaEnd();
	},
	lineStart: function() {
		this._curve.lineStart();
	},
	lineEnd: function() {
		this._curve.lineEnd();
	},
	point: function(e, t) {
		this._curve.point(t * Math.sin(e), t * -Math.cos(e));
	}
};
function ra(e) {
	function t(t) {
		return new na(e(t));
	}
	return t._curve = e, t;
}
Wi(3), Wi(1 / 3) * 2;
var ia = Ui(Ki / 10) / Ui(7 * Ki / 10);
Ui(qi / 10) * ia, -Hi(qi / 10) * ia, Wi(3), Wi(3), Wi(3) / 2, (1 / Wi(12) / 2 + 1) * 3;
function aa() {}
function oa(e, t, n) {
	e._context.bezierCurveTo((2 * e._x0 + e._x1) / 3, (2 * e._y0 + e._y1) / 3, (e._x0 + 2 * e._x1) / 3, (e._y0 + 2 * e._y1) / 3, (e._x0 + 4 * e._x1 + t) / 6, (e._y0 + 4 * e._y1 + n) / 6);
}
function sa(e) {
	this._context = e;
}
sa.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._y0 = this._y1 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 3: oa(this, this._x1, this._y1);
			case 2: this._context.lineTo(this._x1, this._y1);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2;
				break;
			case 2: this._point = 3, this._context.lineTo((5 * this._x0 + this._x1) / 6, (5 * this._y0 + this._y1) / 6);
			default: oa(this, e, t);
		}
		this._x0 = this._x1, this._x1 = e, this._y0 = this._y1, this._y1 = t;
	}
};
function ca(e, t) {
	this._basis = new sa(e), this._beta = t;
}
ca.prototype = {
	lineStart: function() {
		this._x = [], this._y = [], this._basis.lineStart();
	},
	lineEnd: function() {
		var e = this._x, t = this._y, n = e.length - 1;
		if (n > 0) for (var r = e[0], i = t[0], a = e[n] - r, o = t[n] - i, s = -1, c; ++s <= n;) c = s / n, this._basis.point(this._beta * e[s] + (1 - this._beta) * (r + c * a), this._beta * t[s] + (1 - this._beta) * (i + c * o));
		this._x = this._y = null, this._basis.lineEnd();
	},
	point: function(e, t) {
		this._x.push(+e), this._y.push(+t);
	}
}, (function e(t) {
	function n(e) {
		return t === 1 ? new sa(e) : new ca(e, t);
	}
	return n.beta = function(t) {
		return e(+t);
	}, n;
})(.85);
function la(e, t, n) {
	e._context.bezierCurveTo(e._x1 + e._k * (e._x2 - e._x0), e._y1 + e._k * (e._y2 - e._y0), e._x2 + e._k * (e._x1 - t), e._y2 + e._k * (e._y1 - n), e._x2, e._y2);
}
function ua(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
ua.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x2, this._y2);
				break;
			case 3: la(this, this._x1, this._y1);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2, this._x1 = e, this._y1 = t;
				break;
			case 2: this._point = 3;
			default: la(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new ua(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function da(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
da.prototype = {
	areaStart: aa,
	areaEnd: aa,
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._x3 = this._x4 = this._x5 = this._y0 = this._y1 = this._y2 = this._y3 = this._y4 = this._y5 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 1:
				this._context.moveTo(this._x3, this._y3), this._context.closePath();
				break;
			case 2:
				this._context.lineTo(this._x3, this._y3), this._context.closePath();
				break;
			case 3: this.point(this._x3, this._y3), this.point(this._x4, this._y4), this.point(this._x5, this._y5);
		}
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._x3 = e, this._y3 = t;
				break;
			case 1:
				this._point = 2, this._context.moveTo(this._x4 = e, this._y4 = t);
				break;
			case 2:
				this._point = 3, this._x5 = e, this._y5 = t;
				break;
			default: la(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new da(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function fa(e, t) {
	this._context = e, this._k = (1 - t) / 6;
}
fa.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 3) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1;
				break;
			case 1:
				this._point = 2;
				break;
			case 2:
				this._point = 3, this._line ? this._context.lineTo(this._x2, this._y2) : this._context.moveTo(this._x2, this._y2);
				break;
			case 3: this._point = 4;
			default: la(this, e, t);
		}
		this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return new fa(e, t);
	}
	return n.tension = function(t) {
		return e(+t);
	}, n;
})(0);
function pa(e, t, n) {
	var r = e._x1, i = e._y1, a = e._x2, o = e._y2;
	if (e._l01_a > Gi) {
		var s = 2 * e._l01_2a + 3 * e._l01_a * e._l12_a + e._l12_2a, c = 3 * e._l01_a * (e._l01_a + e._l12_a);
		r = (r * s - e._x0 * e._l12_2a + e._x2 * e._l01_2a) / c, i = (i * s - e._y0 * e._l12_2a + e._y2 * e._l01_2a) / c;
	}
	if (e._l23_a > Gi) {
		var l = 2 * e._l23_2a + 3 * e._l23_a * e._l12_a + e._l12_2a, u = 3 * e._l23_a * (e._l23_a + e._l12_a);
		a = (a * l + e._x1 * e._l23_2a - t * e._l12_2a) / u, o = (o * l + e._y1 * e._l23_2a - n * e._l12_2a) / u;
	}
	e._context.bezierCurveTo(r, i, a, o, e._x2, e._y2);
}
function ma(e, t) {
	this._context = e, this._alpha = t;
}
ma.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x2, this._y2);
				break;
			case 3: this.point(this._x2, this._y2);
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1:
				this._point = 2;
				break;
			case 2: this._point = 3;
			default: pa(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new ma(e, t) : new ua(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function ha(e, t) {
	this._context = e, this._alpha = t;
}
ha.prototype = {
	areaStart: aa,
	areaEnd: aa,
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._x3 = this._x4 = this._x5 = this._y0 = this._y1 = this._y2 = this._y3 = this._y4 = this._y5 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 1:
				this._context.moveTo(this._x3, this._y3), this._context.closePath();
				break;
			case 2:
				this._context.lineTo(this._x3, this._y3), this._context.closePath();
				break;
			case 3: this.point(this._x3, this._y3), this.point(this._x4, this._y4), this.point(this._x5, this._y5);
		}
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1, this._x3 = e, this._y3 = t;
				break;
			case 1:
				this._point = 2, this._context.moveTo(this._x4 = e, this._y4 = t);
				break;
			case 2:
				this._point = 3, this._x5 = e, this._y5 = t;
				break;
			default: pa(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new ha(e, t) : new da(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function ga(e, t) {
	this._context = e, this._alpha = t;
}
ga.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._x2 = this._y0 = this._y1 = this._y2 = NaN, this._l01_a = this._l12_a = this._l23_a = this._l01_2a = this._l12_2a = this._l23_2a = this._point = 0;
	},
	lineEnd: function() {
		(this._line || this._line !== 0 && this._point === 3) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		if (e = +e, t = +t, this._point) {
			var n = this._x2 - e, r = this._y2 - t;
			this._l23_a = Math.sqrt(this._l23_2a = (n * n + r * r) ** +this._alpha);
		}
		switch (this._point) {
			case 0:
				this._point = 1;
				break;
			case 1:
				this._point = 2;
				break;
			case 2:
				this._point = 3, this._line ? this._context.lineTo(this._x2, this._y2) : this._context.moveTo(this._x2, this._y2);
				break;
			case 3: this._point = 4;
			default: pa(this, e, t);
		}
		this._l01_a = this._l12_a, this._l12_a = this._l23_a, this._l01_2a = this._l12_2a, this._l12_2a = this._l23_2a, this._x0 = this._x1, this._x1 = this._x2, this._x2 = e, this._y0 = this._y1, this._y1 = this._y2, this._y2 = t;
	}
}, (function e(t) {
	function n(e) {
		return t ? new ga(e, t) : new fa(e, 0);
	}
	return n.alpha = function(t) {
		return e(+t);
	}, n;
})(.5);
function _a(e) {
	return e < 0 ? -1 : 1;
}
function va(e, t, n) {
	var r = e._x1 - e._x0, i = t - e._x1, a = (e._y1 - e._y0) / (r || i < 0 && -0), o = (n - e._y1) / (i || r < 0 && -0), s = (a * i + o * r) / (r + i);
	return (_a(a) + _a(o)) * Math.min(Math.abs(a), Math.abs(o), .5 * Math.abs(s)) || 0;
}
function ya(e, t) {
	var n = e._x1 - e._x0;
	return n ? (3 * (e._y1 - e._y0) / n - t) / 2 : t;
}
function ba(e, t, n) {
	var r = e._x0, i = e._y0, a = e._x1, o = e._y1, s = (a - r) / 3;
	e._context.bezierCurveTo(r + s, i + s * t, a - s, o - s * n, a, o);
}
function xa(e) {
	this._context = e;
}
xa.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x0 = this._x1 = this._y0 = this._y1 = this._t0 = NaN, this._point = 0;
	},
	lineEnd: function() {
		switch (this._point) {
			case 2:
				this._context.lineTo(this._x1, this._y1);
				break;
			case 3: ba(this, this._t0, ya(this, this._t0));
		}
		(this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line = 1 - this._line;
	},
	point: function(e, t) {
		var n = NaN;
		if (e = +e, t = +t, e !== this._x1 || t !== this._y1) {
			switch (this._point) {
				case 0:
					this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
					break;
				case 1:
					this._point = 2;
					break;
				case 2:
					this._point = 3, ba(this, ya(this, n = va(this, e, t)), n);
					break;
				default: ba(this, this._t0, n = va(this, e, t));
			}
			this._x0 = this._x1, this._x1 = e, this._y0 = this._y1, this._y1 = t, this._t0 = n;
		}
	}
}, Object.create(xa.prototype).point = function(e, t) {
	xa.prototype.point.call(this, t, e);
};
function Sa(e, t) {
	this._context = e, this._t = t;
}
Sa.prototype = {
	areaStart: function() {
		this._line = 0;
	},
	areaEnd: function() {
		this._line = NaN;
	},
	lineStart: function() {
		this._x = this._y = NaN, this._point = 0;
	},
	lineEnd: function() {
		0 < this._t && this._t < 1 && this._point === 2 && this._context.lineTo(this._x, this._y), (this._line || this._line !== 0 && this._point === 1) && this._context.closePath(), this._line >= 0 && (this._t = 1 - this._t, this._line = 1 - this._line);
	},
	point: function(e, t) {
		switch (e = +e, t = +t, this._point) {
			case 0:
				this._point = 1, this._line ? this._context.lineTo(e, t) : this._context.moveTo(e, t);
				break;
			case 1: this._point = 2;
			default: if (this._t <= 0) this._context.lineTo(this._x, t), this._context.lineTo(e, t);
			else {
				var n = this._x * (1 - this._t) + e * this._t;
				this._context.lineTo(n, this._y), this._context.lineTo(n, t);
			}
		}
		this._x = e, this._y = t;
	}
};
function Ca(e) {
	return new Sa(e, 1);
}
// src/experts/Sparkline.tsx
var wa = 90, Ta = 22;
function Ea({ values: e }) {
	if (e.length < 2) return /* @__PURE__ */ I(b, { children: "–" });
	let t = X().domain([0, e.length]).range([0, wa]), n = X().domain([0, L(e) || 1]).range([21, 1]), r = ta((e, n) => t(n), 21, (e) => n(e)).curve(Ca);
	return /* @__PURE__ */ I("svg", {
		class: "sparkline",
		width: wa,
		height: Ta,
		role: "img",
		"aria-label": `Load over the trace, between ${B(pt(e) ?? 0)} and ${B(L(e) ?? 0)} an even share`,
		children: /* @__PURE__ */ I("path", { d: r([...e, e[e.length - 1]]) ?? "" })
	});
}
// src/experts/Experts.tsx
var Da = 12, Oa = [
	"expert",
	"load",
	"over the trace",
	"takes most",
	"chosen together with"
];
function ka({ trace: e, selection: t, select: n }) {
	let [r, i] = P(!1), { layer: a, expert: o } = t, s = F(() => Oi(e, !0)[a] ?? [], [e, a]), c = s.slice(0, Da), l = r ? s : c.includes(o) || !s.includes(o) ? c : [o, ...c], u = Mi(e, a), d = e.layer(a).index;
	return /* @__PURE__ */ I("div", {
		class: "experts",
		children: [
			u && /* @__PURE__ */ I("p", { children: u }),
			/* @__PURE__ */ I(Xt, {
				label: `Experts of layer ${d} of ${e.name}`,
				columns: Oa,
				children: l.map((t) => /* @__PURE__ */ I(Aa, {
					facts: Ai(e, a, t),
					isSelected: t === o,
					choose: () => n({
						expert: t,
						quantity: "expert"
					})
				}, t))
			}),
			s.length > c.length && /* @__PURE__ */ I("button", {
				type: "button",
				onClick: () => i(!r),
				children: r ? `the busiest ${Da}` : `all ${z(s.length)} experts`
			})
		]
	});
}
function Aa({ facts: e, isSelected: t, choose: n }) {
	let { expert: r, rows: i, load: a, tokens: o, partners: s, bins: c } = e;
	return /* @__PURE__ */ I("tr", {
		class: t ? "selected" : void 0,
		children: [
			/* @__PURE__ */ I("th", {
				scope: "row",
				children: /* @__PURE__ */ I("button", {
					type: "button",
					"aria-pressed": t,
					title: "Colour the text by this expert",
					onClick: n,
					children: r
				})
			}),
			/* @__PURE__ */ I("td", { children: [i ? B(a) : "never used", /* @__PURE__ */ I("span", {
				class: "fine",
				children: [
					" ",
					z(i),
					" rows"
				]
			})] }),
			/* @__PURE__ */ I("td", { children: /* @__PURE__ */ I(Ea, { values: c }) }),
			/* @__PURE__ */ I("td", {
				class: "tokens",
				children: [o.map(({ text: e, count: t, lift: n }, r) => /* @__PURE__ */ I("span", {
					class: "chip plain",
					title: `${z(t)} rows, ${B(n)} its share of all tokens`,
					children: [/* @__PURE__ */ I("bdi", { children: e }), /* @__PURE__ */ I("sub", { children: Wt(n) })]
				}, r)), o.length === 0 && "–"]
			}),
			/* @__PURE__ */ I("td", { children: [s.map(({ expert: e, lift: t }) => /* @__PURE__ */ I("span", {
				class: "partner",
				children: [e, /* @__PURE__ */ I("sub", { children: Wt(t) })]
			}, e)), s.length === 0 && "–"] })
		]
	});
}
// src/header.tsx
var ja = [
	["verdict", "Verdict"],
	["map", "Map"],
	["text", "Text"],
	["walk", "Walk"],
	["experts", "Experts"],
	["size", "Size"],
	["limits", "Limits"]
];
function Ma({ title: e, traces: t, theme: n, setTheme: r, has: i }) {
	let a = ja.filter(([e]) => i[e] ?? !0), o = [...new Set(t.flatMap(({ facts: e }) => [e.note, e.cut].filter((e) => e !== null)))];
	return /* @__PURE__ */ I("header", { children: [
		/* @__PURE__ */ I("div", {
			class: "top",
			children: [/* @__PURE__ */ I("nav", {
				"aria-label": "Parts of this page",
				children: a.map(([e, t]) => /* @__PURE__ */ I("a", {
					href: `#${e}`,
					onClick: Na,
					children: t
				}, e))
			}), /* @__PURE__ */ I("label", {
				class: "theme",
				children: [/* @__PURE__ */ I("span", { children: "Colours" }), /* @__PURE__ */ I("select", {
					"aria-label": "Colours",
					value: n,
					onChange: (e) => r(e.currentTarget.value),
					children: [
						/* @__PURE__ */ I("option", {
							value: "auto",
							children: "as the system"
						}),
						/* @__PURE__ */ I("option", {
							value: "light",
							children: "light"
						}),
						/* @__PURE__ */ I("option", {
							value: "dark",
							children: "dark"
						})
					]
				})]
			})]
		}),
		/* @__PURE__ */ I("h1", { children: e }),
		o.map((e) => /* @__PURE__ */ I("p", {
			class: "note",
			children: e
		}, e))
	] });
}
function Na(e) {
	let t = e.currentTarget.getRootNode();
	e.preventDefault(), t.getElementById(e.currentTarget.hash.slice(1))?.scrollIntoView();
}
// src/draw/canvas.tsx
function Pa() {
	let e = ke(null), [t, n] = P(0);
	return Oe(() => {
		let t = e.current;
		if (!t) return;
		let r = new ResizeObserver(() => n(t.clientWidth));
		return n(t.clientWidth), r.observe(t), () => r.disconnect();
	}, []), [e, t];
}
function Fa({ width: e, height: t, draw: n, class: r }) {
	let i = ke(null);
	return De(() => {
		let r = i.current, a = r?.getContext("2d");
		if (!r || !a || e <= 0) return;
		let o = Math.max(2, window.devicePixelRatio || 1);
		r.width = Math.round(e * o), r.height = Math.round(t * o), a.setTransform(o, 0, 0, o, 0, 0), n(a);
	}, [
		e,
		t,
		n
	]), /* @__PURE__ */ I("canvas", {
		ref: i,
		class: r,
		style: {
			width: `${e}px`,
			height: `${t}px`
		},
		"aria-hidden": !0
	});
}
// src/map/draw.ts
var Ia = "11px system-ui, sans-serif", La = 13;
function Ra(e, t, n, r, i) {
	e.clearRect(0, 0, t.plotRight + 20, t.height), e.font = Ia, e.textBaseline = "middle", Ba(e, t, n, i);
	for (let a = 0; a < t.numLayers; a++) Va(e, t, n.loads(a), r[a] ?? [], a, i);
	Ua(e, t, n, i);
}
function za(e, t) {
	return e.top + (t + .5) * e.rowHeight;
}
function Ba(e, t, n, r) {
	let i = Math.ceil(La / t.rowHeight);
	e.fillStyle = r.muted, e.textAlign = "right";
	for (let r = 0; r < t.numLayers; r += i) e.fillText(String(n.layer(r).index), t.left - 7, za(t, r));
	e.textAlign = "left", e.fillText(t.right > 260 ? "layer, and its experts" : "layer", 0, 9);
}
function Va(e, t, n, r, i, a) {
	let o = t.cellWidth(i), s = +(o > 5), c = t.top + i * t.rowHeight;
	r.forEach((r, i) => {
		let l = n[r] ?? 0, u = t.left + i * o;
		e.fillStyle = a.load(l), e.fillRect(u, c, Math.max(.5, o - s), t.rowHeight - 1), l === 0 && o > 7 && Ha(e, u, c, o - s, t.rowHeight - 1, a);
	});
}
function Ha(e, t, n, r, i, a) {
	let o = Math.min(r, i) / 5, [s, c] = [t + r / 2, n + i / 2];
	e.strokeStyle = a.muted, e.lineWidth = 1, e.beginPath(), e.moveTo(s - o, c - o), e.lineTo(s + o, c + o), e.moveTo(s + o, c - o), e.lineTo(s - o, c + o), e.stroke();
}
function Ua(e, t, n, r) {
	let i = n.layers.map((e, t) => n.passRatios(t).sort((e, t) => e - t)), a = n.layers.map((e, t) => L(n.loads(t)) ?? 0), o = Math.max(...a, ...i.map((e) => mt(e, .95) ?? 0), 1.5), s = X().domain([1, o]).range([t.plotLeft, t.plotRight]).nice(4);
	Wa(e, t, s, r);
	for (let n = 0; n < t.numLayers; n++) {
		let o = za(t, n), c = i[n] ?? [], l = [.05, .95].map((e) => s(mt(c, e) ?? 1));
		e.strokeStyle = r.muted, e.lineWidth = Math.min(3, t.rowHeight / 4), e.beginPath(), e.moveTo(l[0], o), e.lineTo(l[1], o), e.stroke(), e.fillStyle = r.accent, e.beginPath(), e.arc(s(Math.max(1, a[n])), o, Math.min(4, t.rowHeight / 3), 0, 2 * Math.PI), e.fill();
	}
}
function Wa(e, t, n, r) {
	let i = n.domain()[1];
	for (let a of [1, i]) e.textAlign = a === i ? "end" : "center", e.fillStyle = r.muted, e.fillText(`${a} ×`, a === i ? t.plotRight + 8 : n(a), 9), e.fillStyle = r.rule, e.fillRect(n(a), t.top - 4, 1, t.numLayers * t.rowHeight + 4);
}
// src/map/LoadLegend.tsx
var Ga = [
	[0, "none"],
	[.25, "≤ ¼"],
	[.5, "½"],
	[1, "even"],
	[2, "2 ×"],
	[4, "≥ 4 ×"]
];
function Ka() {
	let e = Di();
	return /* @__PURE__ */ I("ul", {
		class: "legend",
		"aria-label": "Load of an expert, as a multiple of an even share",
		children: Ga.map(([t, n]) => /* @__PURE__ */ I("li", { children: [/* @__PURE__ */ I("i", { style: { background: e.load(t) } }), n] }, n))
	});
}
// src/map/layout.ts
var qa = 30, Ja = 22, Ya = 480;
function Xa(e, t) {
	let n = t.length, r = Math.max(9, Math.min(30, Math.floor(Ya / Math.max(1, n)))), i = Math.max(31, e - (e < 480 ? 84 : 170));
	return {
		left: qa,
		top: Ja,
		rowHeight: r,
		height: Ja + n * r + 4,
		right: i,
		plotLeft: i + 18,
		plotRight: Math.max(i + 19, e - 10),
		numLayers: n,
		cellWidth: (e) => (i - qa) / Math.max(1, t[e] ?? 1),
		numColumns: t
	};
}
function Za(e, t, n) {
	let r = Math.floor((n - e.top) / e.rowHeight);
	if (r < 0 || r >= e.numLayers) return null;
	let i = Math.floor((t - e.left) / e.cellWidth(r));
	return i < 0 || i >= (e.numColumns[r] ?? 0) ? null : {
		layer: r,
		column: i
	};
}
function Qa({ layer: e, column: t }, n, r) {
	let i = {
		ArrowLeft: {
			layer: e,
			column: t - 1
		},
		ArrowRight: {
			layer: e,
			column: t + 1
		},
		ArrowUp: {
			layer: e - 1,
			column: t
		},
		ArrowDown: {
			layer: e + 1,
			column: t
		},
		Home: {
			layer: e,
			column: 0
		},
		End: {
			layer: e,
			column: Infinity
		},
		PageUp: {
			layer: 0,
			column: t
		},
		PageDown: {
			layer: Infinity,
			column: t
		}
	}[n];
	if (!i) return null;
	let a = Math.max(0, Math.min(r.length - 1, i.layer));
	return {
		layer: a,
		column: Math.max(0, Math.min((r[a] ?? 1) - 1, i.column))
	};
}
// src/map/LoadMap.tsx
function $a({ trace: e, selection: t, select: n }) {
	let [r, i] = Pa(), [a, o] = P(!1), [s, c] = P(null), l = Me(), u = Di(), d = F(() => Oi(e, a), [e, a]), f = F(() => Xa(i, d.map((e) => e.length)), [i, d]), p = Ae((t) => Ra(t, f, e, d, u), [
		f,
		e,
		d,
		u
	]), m = (e) => d[e.layer]?.[e.column] ?? 0, h = (e) => n({
		layer: e.layer,
		expert: m(e)
	}), g = s ?? {
		layer: t.layer,
		column: Math.max(0, d[t.layer]?.indexOf(t.expert) ?? 0)
	};
	return /* @__PURE__ */ I("div", {
		class: "map",
		children: [
			/* @__PURE__ */ I("div", {
				class: "controls",
				children: [/* @__PURE__ */ I(Ka, {}), /* @__PURE__ */ I("label", { children: [
					/* @__PURE__ */ I("input", {
						type: "checkbox",
						checked: a,
						onChange: (e) => o(e.currentTarget.checked)
					}),
					" ",
					"busiest first"
				] })]
			}),
			/* @__PURE__ */ I("div", {
				ref: r,
				class: "canvas-frame",
				role: "application",
				"aria-roledescription": "heat map",
				"aria-label": `Load of each expert in each layer of ${e.name}. Arrow keys move, Enter chooses.`,
				"aria-describedby": l,
				tabIndex: 0,
				onKeyDown: (e) => {
					if (e.key === "Enter" || e.key === " ") h(g);
					else {
						let t = Qa(g, e.key, d.map((e) => e.length));
						if (!t) return;
						c(t);
					}
					e.preventDefault();
				},
				onPointerMove: (e) => c(Za(f, e.offsetX, e.offsetY)),
				onPointerLeave: () => c(null),
				onClick: (e) => {
					let t = Za(f, e.offsetX, e.offsetY);
					t && h(t);
				},
				children: [/* @__PURE__ */ I(Fa, {
					width: i,
					height: f.height,
					draw: p
				}), /* @__PURE__ */ I(eo, {
					layout: f,
					cell: g
				})]
			}),
			/* @__PURE__ */ I("p", {
				class: "fine",
				children: ["At the right, each layer’s busiest expert as a multiple of an even share: the dot over the whole trace", e.arrays.pass_ratio ? ", the bar in nine of ten single passes." : "."]
			}),
			/* @__PURE__ */ I("p", {
				class: "readout",
				id: l,
				"aria-live": "polite",
				children: ki(e, g.layer, m(g))
			})
		]
	});
}
function eo({ layout: e, cell: t }) {
	let n = e.cellWidth(t.layer);
	return /* @__PURE__ */ I("span", {
		class: "cell-mark",
		style: {
			left: `${e.left + t.column * n - 2}px`,
			top: `${e.top + t.layer * e.rowHeight - 2}px`,
			width: `${Math.max(3, n) + 3}px`,
			height: `${e.rowHeight + 3}px`
		}
	});
}
// src/map/passes.ts
var to = 40;
function no(e) {
	let t = X([1, Math.max(2, ...e.map((e) => L(e) ?? 2))], [0, 1]).nice().domain();
	return {
		domain: t,
		tallest: L(e.map((e) => (L(ro(e, t), (e) => e.length) ?? 0) / (e.length || 1))) || 1
	};
}
function ro(e, t) {
	let n = X(t, [0, 1]).ticks(to);
	return ft().domain(t).thresholds(n)(e);
}
// src/map/PassDistribution.tsx
var io = 92, ao = 70;
function oo({ trace: e, traces: t, layer: n }) {
	let [r, i] = Pa(), a = F(() => e.passRatios(n).sort((e, t) => e - t), [e, n]), o = F(() => no(t.map((e) => e.passRatios(n))), [t, n]);
	if (a.length === 0) return null;
	let s = mt(a, .5) ?? 1, c = mt(a, .95) ?? 1;
	return /* @__PURE__ */ I("figure", {
		class: "passes",
		children: [/* @__PURE__ */ I("figcaption", { children: [
			/* @__PURE__ */ I("b", { children: [
				"Single forward passes, layer ",
				e.layer(n).index,
				"."
			] }),
			" In half of",
			" ",
			U(a.length, "pass", "passes"),
			" the busiest expert had ",
			B(s),
			" an even share or more, in one of twenty ",
			B(c),
			" or more. All wait for it."
		] }), /* @__PURE__ */ I("div", {
			ref: r,
			class: "chart",
			children: /* @__PURE__ */ I(so, {
				ratios: a,
				scales: o,
				width: i,
				marks: [["half", s], ["1 in 20", c]]
			})
		})]
	});
}
function so({ ratios: e, scales: t, width: n, marks: r }) {
	let i = X(t.domain, [1, Math.max(2, n - 24)]), [a] = t.domain, o = ro(e, t.domain), s = X([0, t.tallest * e.length], [0, 50]);
	return /* @__PURE__ */ I("svg", {
		width: n,
		height: io,
		viewBox: `0 0 ${n} ${io}`,
		"aria-hidden": "true",
		children: [
			o.map((e) => /* @__PURE__ */ I("rect", {
				class: "column",
				x: i(e.x0 ?? 1),
				y: ao - s(e.length),
				width: Math.max(1, i(e.x1 ?? 1) - i(e.x0 ?? 1) - 1),
				height: s(e.length)
			}, e.x0)),
			/* @__PURE__ */ I("line", {
				class: "axis",
				x1: 0,
				x2: n,
				y1: 70.5,
				y2: 70.5
			}),
			r.map(([e, t], n) => /* @__PURE__ */ I("g", { children: [/* @__PURE__ */ I("line", {
				class: "mark",
				x1: i(t),
				x2: i(t),
				y1: 4,
				y2: ao
			}), /* @__PURE__ */ I("text", {
				x: i(t) + (n ? 5 : -5),
				y: 12,
				"text-anchor": n ? "start" : "end",
				children: e
			})] }, e)),
			i.ticks(5).map((e) => /* @__PURE__ */ I("text", {
				x: i(e),
				y: 86,
				"text-anchor": e === a ? "start" : "middle",
				children: [e, " ×"]
			}, e))
		]
	});
}
// src/sides.tsx
function co({ traces: e, view: t }) {
	return e.length === 1 ? /* @__PURE__ */ I(b, { children: t(e[0], 0) }) : /* @__PURE__ */ I("div", {
		class: "sides",
		children: e.map((e, n) => /* @__PURE__ */ I("div", {
			class: "side",
			"data-side": n,
			children: [/* @__PURE__ */ I("p", {
				class: "side-name",
				children: [
					/* @__PURE__ */ I("b", { children: n === 0 ? "A" : "B" }),
					" ",
					e.name
				]
			}), t(e, n)]
		}, n))
	});
}
// src/size/SizeView.tsx
function lo({ size: e }) {
	let t = [
		{
			name: "experts that one token does not use",
			count: e.routed_total - e.routed_active,
			kind: "idle"
		},
		{
			name: "experts that one token uses",
			count: e.routed_active,
			kind: "active"
		},
		{
			name: "shared experts",
			count: e.shared,
			kind: "shared"
		},
		{
			name: "all else: attention, embeddings, routers",
			count: e.other,
			kind: "other"
		}
	].filter(({ count: e }) => e > 0);
	return /* @__PURE__ */ I("div", {
		class: "size",
		children: [
			/* @__PURE__ */ I("p", {
				class: "sentence",
				children: e.sentence
			}),
			/* @__PURE__ */ I("figure", { children: [/* @__PURE__ */ I("div", {
				class: "parts",
				role: "img",
				"aria-label": `${V(e.active / e.total)} of the parameters are active`,
				children: t.map(({ name: t, count: n, kind: r }) => /* @__PURE__ */ I("i", {
					"data-kind": r,
					style: { flexGrow: n / e.total }
				}, t))
			}), /* @__PURE__ */ I("ul", {
				class: "legend",
				children: t.map(({ name: t, count: n, kind: r }) => /* @__PURE__ */ I("li", { children: [
					/* @__PURE__ */ I("i", { "data-kind": r }),
					t,
					": ",
					qt(n),
					" (",
					V(n / e.total),
					")"
				] }, t))
			})] }),
			e.touched.length > 0 && /* @__PURE__ */ I(uo, { size: e })
		]
	});
}
function uo({ size: e }) {
	let t = e.touched.reduce((e, [, , t]) => Math.max(e, t), 1);
	return /* @__PURE__ */ I("table", {
		class: "touched",
		children: [
			/* @__PURE__ */ I("caption", { children: [
				"Memory follows the total, reading follows what is touched. Means over this trace, at",
				" ",
				Kt(e.expert_bytes),
				" for one expert of one layer:"
			] }),
			/* @__PURE__ */ I("thead", { children: /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "tokens in a pass"
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "experts touched, of all layers"
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "bytes read"
				})
			] }) }),
			/* @__PURE__ */ I("tbody", { children: e.touched.map(([e, n, r, i]) => /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("th", {
					scope: "row",
					children: e
				}),
				/* @__PURE__ */ I("td", { children: [
					/* @__PURE__ */ I("span", {
						class: "share",
						role: "img",
						"aria-label": V(n / r),
						children: /* @__PURE__ */ I("i", { style: { width: `${100 * n / t}%` } })
					}),
					Bt(n),
					" of ",
					z(r)
				] }),
				/* @__PURE__ */ I("td", { children: Kt(i) })
			] }, e)) })
		]
	});
}
// src/size/SpeedView.tsx
var fo = 520, po = 190, Q = {
	left: 58,
	right: 14,
	top: 14,
	bottom: 36
};
function mo({ speed: e }) {
	let t = e.by_batch.filter(([, , t]) => t <= e.memory_bytes), n = t[t.length - 1];
	return /* @__PURE__ */ I("div", {
		class: "speed",
		children: [
			/* @__PURE__ */ I("p", {
				class: "sentence",
				children: n ? `On ${e.device}, ${U(n[0], "sequence")} at once of ${U(e.context, "token")} give at most ${qt(n[1])} tokens a second.` : `${e.device} does not hold this model.`
			}),
			/* @__PURE__ */ I("p", {
				class: "fine",
				children: [
					"Ceilings for ",
					e.model,
					" with the experts that this trace touched: what is read and computed at full speed, all of it at the same time."
				]
			}),
			/* @__PURE__ */ I("div", {
				class: "curves",
				children: [/* @__PURE__ */ I(ho, {
					label: "Tokens a second, at most",
					points: e.by_batch.map(([e, t]) => [e, t])
				}), /* @__PURE__ */ I(ho, {
					label: "Memory",
					points: e.by_batch.map(([e, , t]) => [e, t]),
					limit: e.memory_bytes,
					show: Kt
				})]
			}),
			/* @__PURE__ */ I("table", { children: [/* @__PURE__ */ I("thead", { children: /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "sequences at once"
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "tokens a second, at most"
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: ["memory of ", Kt(e.memory_bytes)]
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "bound by"
				})
			] }) }), /* @__PURE__ */ I("tbody", { children: e.by_batch.map(([t, n, r, i]) => /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("th", {
					scope: "row",
					children: z(t)
				}),
				/* @__PURE__ */ I("td", { children: qt(n) }),
				/* @__PURE__ */ I("td", { children: [Kt(r), r > e.memory_bytes && ", does not fit"] }),
				/* @__PURE__ */ I("td", { children: i })
			] }, t)) })] })
		]
	});
}
function ho({ label: e, points: t, limit: n, show: r = R("~s") }) {
	let i = xi([1, L(t.map(([e]) => e)) ?? 1], [Q.left, fo - Q.right]).base(2), a = X([0, Math.max(n ?? 0, L(t, ([, e]) => e) ?? 1)], [po - Q.bottom, Q.top]), o = ea(([e]) => i(e), ([, e]) => a(e))(t);
	return /* @__PURE__ */ I("figure", {
		class: "curve",
		children: [/* @__PURE__ */ I("figcaption", { children: e }), /* @__PURE__ */ I("svg", {
			viewBox: `0 0 ${fo} ${po}`,
			"aria-hidden": "true",
			children: [
				a.ticks(4).map((e) => /* @__PURE__ */ I("g", {
					transform: `translate(0 ${a(e)})`,
					children: [/* @__PURE__ */ I("line", {
						class: "grid",
						x1: Q.left,
						x2: fo - Q.right
					}), /* @__PURE__ */ I("text", {
						x: Q.left - 6,
						dy: "0.32em",
						"text-anchor": "end",
						children: r(e)
					})]
				}, e)),
				i.ticks().map((e) => /* @__PURE__ */ I("text", {
					x: i(e),
					y: po - Q.bottom + 16,
					"text-anchor": "middle",
					children: e
				}, e)),
				/* @__PURE__ */ I("text", {
					x: fo - Q.right,
					y: 186,
					"text-anchor": "end",
					children: "sequences at once"
				}),
				n !== void 0 && /* @__PURE__ */ I("g", { children: [/* @__PURE__ */ I("line", {
					class: "axis",
					x1: Q.left,
					x2: fo - Q.right,
					y1: a(n),
					y2: a(n)
				}), /* @__PURE__ */ I("text", {
					x: fo - Q.right,
					y: a(n) + (a(n) > 30 ? -5 : 13),
					"text-anchor": "end",
					children: "what the device has"
				})] }),
				/* @__PURE__ */ I("path", {
					class: "mark",
					fill: "none",
					d: o ?? ""
				}),
				t.map(([e, t]) => /* @__PURE__ */ I("circle", {
					class: "dot",
					cx: i(e),
					cy: a(t),
					r: "3"
				}, e))
			]
		})]
	});
}
// src/start.ts
var go = 12;
function _o(e) {
	let t = Array.from(e.scoredTokens()), n = t.length ? t : Array.from({ length: e.numTokens }, (e, t) => t), r = n.length < 9 ? 0 : Math.floor(n.length / 3), i = n.slice(r, n.length - r), a = i.filter((t) => t - e.sequence(t)[0] >= go), o = a.length ? a : i;
	return o.reduce((t, n) => vo(e, n) > vo(e, t) ? n : t, o[0] ?? 0);
}
function vo(e, t) {
	let n = e.text(t) ?? "";
	return /^ ?\p{L}+$/u.test(n) ? n.length : 0;
}
// src/text/LayerSelect.tsx
function yo({ trace: e, selection: t, select: n }) {
	return /* @__PURE__ */ I("label", { children: [
		"layer",
		" ",
		/* @__PURE__ */ I("select", {
			value: t.layer,
			onChange: (r) => {
				let i = Number(r.currentTarget.value);
				n({
					layer: i,
					expert: Math.min(t.expert, e.numExperts(i) - 1)
				});
			},
			children: e.layers.map((e, t) => /* @__PURE__ */ I("option", {
				value: t,
				children: e.index
			}, e.index))
		})
	] });
}
// src/text/quantities.ts
var bo = {
	overlap: "experts in common",
	first: "first expert",
	weight: "weight of the first choice",
	margin: "margin",
	entropy: "entropy of the router",
	dropped: "dropped choices",
	expert: "one expert across layers"
};
function xo(e, t) {
	let n = t ? ["overlap", "first"] : ["first"];
	return e.arrays.topk_weights && n.push("weight"), e.arrays.select_margin && n.push("margin"), e.arrays.router_entropy && n.push("entropy"), e.arrays.dropped && n.push("dropped"), [...n, "expert"];
}
function So(e, t, n) {
	let { name: r, layer: i, expert: a, side: o } = t;
	switch (r) {
		case "overlap": return n ? Do(e, n, i, o) : Co(e, i);
		case "first": return Co(e, i);
		case "weight": return wo(e, r, (t) => e.weightAt(i, t, 0), "weight");
		case "margin": return wo(e, r, (t) => e.ofLayer("select_margin", i, t), "margin");
		case "entropy": return wo(e, r, (t) => e.ofLayer("router_entropy", i, t), "entropy");
		case "dropped": return To(e, i);
		case "expert": return Eo(e, a);
	}
}
function Co(e, t) {
	let n = (n) => {
		let r = e.expertAt(t, n, 0);
		return r < 0 ? null : r;
	};
	return {
		name: "first",
		isExpert: !0,
		low: "",
		high: "",
		value: n,
		label: (e) => n(e) === null ? "no expert" : `first expert ${n(e)}`
	};
}
function wo(e, t, n, r) {
	let i = Array.from({ length: e.numTokens }, (e, t) => n(t)), [a = 0, o = 0] = $e(i.filter((e) => e !== null && Number.isFinite(e))), s = o - a;
	return {
		name: t,
		isExpert: !1,
		low: H(a),
		high: H(o),
		value: (e) => {
			let t = i[e] ?? null;
			return t === null ? null : s > 0 ? Math.min(1, Math.max(0, (t - a) / s)) : 0;
		},
		label: (e) => `${r} ${H(i[e] ?? null)}`
	};
}
function To(e, t) {
	let n = (n) => e.choices(t, n).filter((e) => e.isDropped).length;
	return {
		name: "dropped",
		isExpert: !1,
		low: "none",
		high: "all",
		value: (t) => n(t) / e.numChoices,
		label: (r) => `${n(r)} of ${e.choices(t, r).length} choices dropped`
	};
}
function Eo(e, t) {
	let n = (n) => e.layers.filter((r, i) => e.choices(i, n).some((e) => e.expert === t)).length, r = Array.from({ length: e.numTokens }, (e, t) => n(t)), i = Math.max(1, ...$e(r).map((e) => e ?? 0));
	return {
		name: "expert",
		isExpert: !1,
		low: "in no layer",
		high: `in ${i} of ${e.layers.length}`,
		value: (e) => (r[e] ?? 0) / i,
		label: (n) => `expert ${t} in ${r[n]} of ${e.layers.length} layers`
	};
}
function Do(e, t, n, r) {
	let i = e.layer(n).top_k, a = (e) => {
		let i = t.pairOf(r, e);
		return i === null ? null : t.overlap(n, i);
	};
	return {
		name: "overlap",
		isExpert: !1,
		low: `all ${i} in common`,
		high: "none",
		value: (e) => {
			let t = a(e);
			return t === null ? null : Math.sqrt(1 - Math.min(1, t / i));
		},
		label: (e) => {
			let t = a(e);
			return t === null ? "no counterpart" : `${t} of ${i} experts in common`;
		}
	};
}
// src/text/TextControls.tsx
function Oo({ traces: e, comparison: t, selection: n, select: r }) {
	let i = e[0], a = ko(i, 0, n, t), o = xo(i, t).filter((n) => e.every((e) => xo(e, t).includes(n)));
	return /* @__PURE__ */ I("div", {
		class: "controls",
		children: [
			/* @__PURE__ */ I("label", { children: [
				"coloured by",
				" ",
				/* @__PURE__ */ I("select", {
					value: n.quantity,
					onChange: (e) => r({ quantity: e.currentTarget.value }),
					children: o.map((e) => /* @__PURE__ */ I("option", {
						value: e,
						children: bo[e]
					}, e))
				})
			] }),
			n.quantity === "expert" ? /* @__PURE__ */ I("label", { children: [
				"expert",
				" ",
				/* @__PURE__ */ I("input", {
					type: "number",
					min: 0,
					max: i.numExperts(n.layer) - 1,
					value: n.expert,
					onInput: (e) => {
						let t = e.currentTarget.valueAsNumber;
						t >= 0 && t < i.numExperts(n.layer) && r({ expert: t });
					}
				})
			] }) : /* @__PURE__ */ I(yo, {
				trace: i,
				selection: n,
				select: r
			}),
			/* @__PURE__ */ I(Ao, { quantity: a })
		]
	});
}
function ko(e, t, { quantity: n, layer: r, expert: i }, a) {
	return F(() => So(e, {
		name: n,
		layer: r,
		expert: i,
		side: t
	}, a), [
		e,
		n,
		r,
		i,
		t,
		a
	]);
}
function Ao({ quantity: e }) {
	return e.isExpert ? /* @__PURE__ */ I("p", {
		class: "legend-text",
		children: "Small figures are experts; a hue stands for several of them."
	}) : /* @__PURE__ */ I("p", {
		class: "legend-text",
		children: [
			e.low,
			" ",
			/* @__PURE__ */ I("span", {
				class: "ramp",
				"aria-label": "to",
				role: "img"
			}),
			" ",
			e.high
		]
	});
}
// src/text/Chip.tsx
var jo = "13px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace", Mo = 6;
function No(e, t, n) {
	return Math.ceil(t(e)) + 8 + (n ? n * Mo + 2 : 0);
}
function Po({ trace: e, token: t, id: n, width: r, quantity: i, isSelected: a, isFound: o, onChoose: s }) {
	let c = i.value(t), l = W(e.text(t), e.ofToken("token_ids", t));
	return /* @__PURE__ */ I("span", {
		id: n,
		class: [
			"chip",
			o && "found",
			c === null && "blank"
		].filter(Boolean).join(" "),
		role: "option",
		"aria-selected": a,
		"aria-posinset": t + 1,
		"aria-setsize": e.numTokens,
		"aria-label": `${l}, ${i.label(t)}`,
		title: i.label(t),
		"data-token": t,
		"data-hue": i.isExpert && c !== null ? c % 8 : void 0,
		style: {
			width: `${r}px`,
			"--amount": i.isExpert || c === null ? 0 : c.toFixed(3)
		},
		onClick: () => s(t),
		children: [/* @__PURE__ */ I("bdi", { children: l }), i.isExpert && c !== null && /* @__PURE__ */ I("sub", { children: c })]
	});
}
// src/text/lines.ts
function Fo(e, t) {
	let n = [], r = 0, i = 0, a = (e) => {
		e > r && n.push({
			begin: r,
			end: e
		}), r = e, i = 0;
	};
	for (let n = 0; n < e.length; n++) {
		let r = e[n], o = i ? i + t.gap + r : r;
		(t.breaksBefore(n) || o > t.width) && a(n), i = i ? i + t.gap + r : r, t.breaksAfter(n) && a(n + 1);
	}
	return a(e.length), n;
}
function Io(e, t) {
	let n = 0, r = e.length - 1;
	for (; n < r;) {
		let i = n + r + 1 >> 1;
		e[i].begin <= t ? n = i : r = i - 1;
	}
	return n;
}
function Lo(e, t, n, r) {
	let i = Math.max(0, Math.floor(e / n) - 6), a = Math.min(r, Math.ceil((e + t) / n) + 6);
	return [Math.min(i, a), a];
}
// src/text/keys.ts
var Ro = 10;
function zo(e, t, n) {
	if (e.length === 0) return null;
	let r = Io(e, t), i = e[r], a = e[e.length - 1].end, o = (n) => {
		let a = e[Math.max(0, Math.min(e.length - 1, r + n))];
		return Math.min(a.begin + (t - i.begin), a.end - 1);
	};
	switch (n) {
		case "ArrowLeft": return Math.max(0, t - 1);
		case "ArrowRight": return Math.min(a - 1, t + 1);
		case "ArrowUp": return o(-1);
		case "ArrowDown": return o(1);
		case "PageUp": return o(-10);
		case "PageDown": return o(Ro);
		case "Home": return i.begin;
		case "End": return i.end - 1;
		default: return null;
	}
}
// src/text/Search.tsx
function Bo(e) {
	let [t, n] = P(""), r = F(() => Array.from({ length: e.numTokens }, (t, n) => e.text(n)), [e]), i = F(() => tn(r, t), [r, t]), a = F(() => new Set(i), [i]);
	return {
		wanted: t,
		setWanted: n,
		found: i,
		isFound: (e) => a.has(e)
	};
}
function Vo({ search: e, current: t, choose: n }) {
	let { wanted: r, setWanted: i, found: a } = e, o = a.indexOf(t ?? -1), s = (e) => {
		let r = (e > 0 ? a.find((e) => e > (t ?? -1)) : a.findLast((e) => e < (t ?? 0))) ?? a[e > 0 ? 0 : a.length - 1];
		r !== void 0 && n(r);
	}, c = a.length ? `${o < 0 ? "" : `${o + 1} of `}${z(a.length)} found` : "not found";
	return /* @__PURE__ */ I("search", {
		class: "search",
		children: [/* @__PURE__ */ I("label", { children: [
			"find",
			" ",
			/* @__PURE__ */ I("input", {
				type: "search",
				value: r,
				spellcheck: !1,
				onInput: (e) => i(e.currentTarget.value),
				onKeyDown: (e) => {
					e.key === "Enter" && (s(e.shiftKey ? -1 : 1), e.preventDefault());
				}
			})
		] }), r && /* @__PURE__ */ I(b, { children: [
			/* @__PURE__ */ I("button", {
				type: "button",
				onClick: () => s(-1),
				disabled: a.length === 0,
				children: "previous"
			}),
			/* @__PURE__ */ I("button", {
				type: "button",
				onClick: () => s(1),
				disabled: a.length === 0,
				children: "next"
			}),
			/* @__PURE__ */ I("span", {
				"aria-live": "polite",
				children: c
			})
		] })]
	});
}
// src/text/TextView.tsx
var $ = 28, Ho = 420, Uo = 60, Wo = 660;
function Go({ trace: e, side: t, comparison: n, selection: r, select: i }) {
	let [a, o] = Pa(), s = Me(), c = wi("print"), l = ko(e, t, r, n), u = Bo(e), d = r.tokens[t] ?? null, f = l.isExpert ? String(e.numExperts(r.layer) - 1).length : 0, p = F(() => Jo(e, f), [e, f]), m = c ? Math.min(o, Wo) : o, h = F(() => Yo(e, p, m), [
		e,
		p,
		m
	]), [g, _] = Qo(a, h, d), [v, y] = c ? [0, Math.min(Uo, h.length)] : [g, Math.min(_, h.length)], b = (e) => i({ tokens: n?.tokens(t, e) ?? [e] });
	return /* @__PURE__ */ I("div", {
		class: "text",
		children: [
			/* @__PURE__ */ I(Vo, {
				search: u,
				current: d,
				choose: b
			}),
			/* @__PURE__ */ I("div", {
				ref: a,
				class: "text-frame",
				style: { height: c ? "auto" : `${Math.min(Ho, h.length * $ + 2)}px` },
				role: "listbox",
				"aria-label": `Tokens of ${e.name}`,
				"aria-activedescendant": d === null ? void 0 : `${s}-${d}`,
				tabIndex: 0,
				onKeyDown: (e) => {
					e.key === "Enter" && Ko(e.currentTarget);
					let t = zo(h, d ?? 0, e.key);
					t !== null && (e.preventDefault(), b(t));
				},
				children: /* @__PURE__ */ I("div", {
					class: "lines",
					role: "none",
					style: { height: `${(c ? y : h.length) * $}px` },
					children: h.slice(v, y).map((t, n) => /* @__PURE__ */ I("div", {
						class: "line",
						role: "none",
						style: { top: `${(v + n) * $}px` },
						children: qo(t).map((t) => /* @__PURE__ */ I(Po, {
							id: `${s}-${t}`,
							trace: e,
							token: t,
							width: p[t],
							quantity: l,
							isSelected: t === d,
							isFound: u.isFound(t),
							onChoose: b
						}, t))
					}, t.begin))
				})
			}),
			c && y < h.length && /* @__PURE__ */ I("p", {
				class: "fine",
				children: [
					"Printed as far as line ",
					y,
					" of ",
					h.length,
					"."
				]
			})
		]
	});
}
function Ko(e) {
	e.getRootNode().getElementById("walk")?.focus();
}
function qo({ begin: e, end: t }) {
	return Array.from({ length: t - e }, (t, n) => e + n);
}
function Jo(e, t) {
	let n = document.createElement("canvas").getContext("2d");
	n && (n.font = jo);
	let r = /* @__PURE__ */ new Map(), i = (e) => n?.measureText(e).width ?? e.length * 8;
	return Float32Array.from({ length: e.numTokens }, (n, a) => {
		let o = W(e.text(a), e.ofToken("token_ids", a)), s = r.get(o) ?? No(o, i, t);
		return r.set(o, s), s;
	});
}
function Yo(e, t, n) {
	if (n <= 0) return [];
	let r = new Set(e.arrays.seq_offsets?.data ?? []);
	return Fo(t, {
		width: n - 16,
		gap: 2,
		breaksBefore: (e) => r.has(e),
		breaksAfter: (t) => Xo(e.text(t)) && !Zo(e.text(t + 1))
	});
}
function Xo(e) {
	return e?.includes("\n") ?? !1;
}
function Zo(e) {
	return Xo(e) && e?.trim() === "";
}
function Qo(e, t, n) {
	let [r, i] = P(0), a = ke(!0);
	return De(() => {
		let t = e.current;
		if (!t) return;
		let n = () => i(Math.floor(t.scrollTop / $) * $);
		return t.addEventListener("scroll", n, { passive: !0 }), () => t.removeEventListener("scroll", n);
	}, [e]), De(() => {
		let r = e.current;
		if (!r || n === null || t.length === 0) return;
		let i = Io(t, n) * $;
		i >= r.scrollTop && i + $ <= r.scrollTop + r.clientHeight || (r.scrollTop = Math.max(0, i - (a.current ? 5 : 2) * $)), a.current = !1;
	}, [
		e,
		t,
		n
	]), Lo(r, Ho, $, t.length);
}
// src/verdict/VerdictView.tsx
function $o({ trace: e }) {
	let { verdict: t } = e.facts;
	return /* @__PURE__ */ I("div", {
		class: "verdict",
		children: [
			/* @__PURE__ */ I("p", {
				class: "verdict-sentence",
				children: [
					/* @__PURE__ */ I(ts, { status: t.status }),
					". ",
					t.sentence
				]
			}),
			/* @__PURE__ */ I(ns, { trace: e }),
			/* @__PURE__ */ I("details", { children: [
				/* @__PURE__ */ I("summary", { children: "Layer by layer" }),
				/* @__PURE__ */ I(is, { trace: e }),
				t.rules && /* @__PURE__ */ I("p", {
					class: "fine",
					children: t.rules
				})
			] })
		]
	});
}
var es = {
	healthy: "●",
	imbalanced: "◐",
	collapsed: "○",
	unknown: "–"
};
function ts({ status: e }) {
	return /* @__PURE__ */ I("strong", {
		class: "status",
		"data-status": e,
		children: [
			/* @__PURE__ */ I("span", {
				"aria-hidden": "true",
				children: es[e]
			}),
			" ",
			e
		]
	});
}
function ns({ trace: e }) {
	let t = e.layers.map((e) => e.skipped_fraction), n = e.layer(0);
	return /* @__PURE__ */ I("dl", {
		class: "figures",
		children: [
			[e.numTokens ? z(e.numTokens) : "none", "tokens on this page"],
			[z(e.layers.length), e.layers.length === 1 ? "routed layer" : "routed layers"],
			[`${n.top_k} of ${z(n.num_experts)}`, "experts run for a token, in a layer"],
			[V(t.reduce((e, t) => e + t, 0) / t.length), "of the experts’ compute is skipped"]
		].map(([e, t]) => /* @__PURE__ */ I("div", { children: [/* @__PURE__ */ I("dt", { children: t }), /* @__PURE__ */ I("dd", { children: e })] }, t))
	});
}
var rs = [
	"layer",
	"verdict",
	"busiest over even",
	"dead",
	"variation",
	"entropy",
	"dropped",
	"margin, median",
	"in words"
];
function is({ trace: e }) {
	return /* @__PURE__ */ I(Xt, {
		label: `Layers of ${e.name}`,
		class: "layers",
		columns: rs,
		children: e.layers.map((e) => /* @__PURE__ */ I(as, { layer: e }, e.index))
	});
}
function as({ layer: e }) {
	let t = (e) => e === null ? "–" : H(e);
	return /* @__PURE__ */ I("tr", { children: [
		/* @__PURE__ */ I("th", {
			scope: "row",
			title: e.path,
			children: e.index
		}),
		/* @__PURE__ */ I("td", { children: /* @__PURE__ */ I(ts, { status: e.verdict.status }) }),
		/* @__PURE__ */ I("td", { children: e.max_over_mean === null ? "–" : B(e.max_over_mean) }),
		/* @__PURE__ */ I("td", { children: e.dead }),
		/* @__PURE__ */ I("td", { children: t(e.cv) }),
		/* @__PURE__ */ I("td", { children: t(e.normalised_entropy) }),
		/* @__PURE__ */ I("td", { children: e.drop_fraction === null ? "–" : V(e.drop_fraction) }),
		/* @__PURE__ */ I("td", { children: t(e.margin?.[2] ?? null) }),
		/* @__PURE__ */ I("td", {
			class: "words",
			children: e.verdict.sentence
		})
	] });
}
// src/walk/steps.ts
var os = [
	"Token in",
	"Router scores",
	"Pick top-k",
	"Experts run",
	"In parallel",
	"Combine"
];
function ss(e, t, n, r) {
	let { choices: i, ran: a, numExperts: o } = t, s = n.num_experts - a.length;
	switch (e) {
		case 0: return `${r} reaches layer ${n.index} as a list of numbers, and the router sees this token alone.`;
		case 1: return `The router gives each of the ${z(o)} experts a score for this one token.`;
		case 2: return `Only the best ${i.length === 1 ? "one is" : `${i.length} are`} picked; the other ${z(o - i.length)} are out.`;
		case 3: return `Not every expert votes: ${U(a.length, "expert runs", "experts run")} for this token, and the other ${z(s)} stay dark and compute nothing.`;
		case 4: return cs(t);
		default: return ls(t, n);
	}
}
function cs({ pass: e, rows: t, slowest: n, evenRows: r }) {
	let i = U(e.tokens.length, "token"), a = t[n] ?? 0;
	return e.tokens.length === 1 ? "This token ran alone: its experts had one row each, and nothing to share." : `The ${i} that ran together are sorted by expert, and all wait for the fullest: expert ${n}, with ${U(a, "row")}, ${B(a / r)} an even share.`;
}
function ls({ ran: e }, t) {
	let n = t.num_shared ? `, the shared ${t.num_shared === 1 ? "expert’s" : "experts’"} added` : "";
	return e.length === 0 ? `No expert ran, so the routed part adds nothing to this token${n}.` : `${e.length === 1 ? "The output of the one expert is" : `The ${e.length} outputs are`} multiplied by ${e.length === 1 ? "its weight" : "their weights"} and summed${n}: one list of numbers leaves the layer.`;
}
function us({ margin: e, surerFraction: t, choices: n, firstOut: r }) {
	if (e === null || t === null || !Number.isFinite(e)) return null;
	let i = n[n.length - 1], a = i && r ? `, expert ${i.expert} over expert ${r.expert}` : "";
	return `The last one in beat the first one out by ${H(e)}${a}. ${V(t)} of this layer’s tokens were decided by more.`;
}
function ds({ choices: e }) {
	let t = e.filter((e) => e.isDropped).map((e) => e.expert);
	if (t.length === 0) return null;
	let [n, r] = t.length === 1 ? ["Expert", "was"] : ["Experts", "were"];
	return `${n} ${Yt(t)} ${r} picked but full: this token was dropped there.`;
}
function fs(e) {
	let { choices: t, sharedNorm: n, outputNorm: r } = e, i = t.map((e) => e.norm);
	if (r === null || i.some((e) => e === null)) return null;
	let a = [...i, ...n === null ? [] : [n]].reduce((e, t) => e + t, 0), o = r <= a * (1 + 2 ** -10) ? "no longer than that, as it must be, and shorter the more the parts point different ways" : "longer than that, so something that was not recorded adds to it";
	return `The parts’ lengths add up to ${H(a)}; the output’s length is ${H(r)}: ${o}.`;
}
var ps = 2 ** -5;
function ms({ sumError: e, outputNorm: t }) {
	if (e === null) return t === null ? null : "Only lengths were recorded: they bound the sum, but cannot show that it matches the output.";
	let n = "While this was recorded, the parts themselves were added up: their sum";
	return e === 0 ? `${n} is the output exactly.` : e <= ps ? `${n} matches the output to one part in ${qt(1 / e)}.` : `${n} differs from the output by ${Number.isFinite(e) ? `${V(e)} of its length` : "all there is"}, so something that is not shown adds to it or changes it.`;
}
var hs = {
	none: ": they are the scores, not normalised",
	sum: ": each was divided by the sum of all chosen",
	softmax: ": a softmax over the chosen made them"
};
function gs({ weightSum: e }, t) {
	return e === null ? null : `The weights add up to ${H(e)}${hs[t.normalises ?? ""] ?? ""}.`;
}
// src/walk/Combine.tsx
function _s({ trace: e, facts: t }) {
	let n = e.layer(t.layer), r = t.choices.filter((e) => !e.isDropped), i = [
		gs(t, n),
		fs(t),
		ms(t)
	].filter((e) => e !== null), a = r.some((e) => e.norm !== null);
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I(vs, { choices: r }),
		/* @__PURE__ */ I("table", {
			class: "scores",
			children: [/* @__PURE__ */ I("thead", { children: /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "part"
				}),
				/* @__PURE__ */ I("th", {
					scope: "col",
					children: "weight"
				}),
				a && /* @__PURE__ */ I("th", {
					scope: "col",
					children: "length of what it adds"
				})
			] }) }), /* @__PURE__ */ I("tbody", { children: [r.map(({ expert: e, weight: t, norm: r }) => /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("td", { children: [
					"expert ",
					e,
					e >= n.num_experts && ", hands the token through"
				] }),
				/* @__PURE__ */ I("td", { children: H(t) }),
				a && /* @__PURE__ */ I("td", { children: H(r) })
			] }, e)), n.num_shared > 0 && /* @__PURE__ */ I("tr", { children: [
				/* @__PURE__ */ I("td", { children: n.num_shared === 1 ? "shared expert" : `${n.num_shared} shared experts` }),
				/* @__PURE__ */ I("td", { children: "always" }),
				a && /* @__PURE__ */ I("td", { children: H(t.sharedNorm) })
			] })] })]
		}),
		i.map((e) => /* @__PURE__ */ I("p", { children: e }, e)),
		!a && /* @__PURE__ */ I("p", {
			class: "fine",
			children: "The lengths of the experts’ outputs were not recorded with this trace: what each added is not shown."
		})
	] });
}
function vs({ choices: e }) {
	let t = gt(e, (e) => e.weight ?? 0);
	return t <= 0 || e.some((e) => (e.weight ?? -1) < 0) ? null : /* @__PURE__ */ I("div", {
		class: "weights",
		role: "img",
		"aria-label": e.map((e) => `expert ${e.expert}: ${H(e.weight)}`).join(", "),
		children: e.map(({ expert: e, weight: n }) => /* @__PURE__ */ I("span", {
			style: { flexGrow: (n ?? 0) / t },
			children: (n ?? 0) / t > .07 ? e : ""
		}, e))
	});
}
// src/walk/Context.tsx
var ys = 60, bs = 24, xs = [
	"prompt",
	"generated",
	"rejected draft",
	"padding"
];
function Ss({ trace: e, facts: { token: t } }) {
	let [n, r] = e.sequence(t), [i, a] = [Math.max(n, t - ys), Math.min(r, t + bs + 1)], o = W(e.text(t), e.ofToken("token_ids", t)), s = o.trimStart();
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I("blockquote", {
			class: "context",
			children: [
				i > n && "… ",
				ws(e, i, t),
				o.slice(0, o.length - s.length),
				/* @__PURE__ */ I("mark", { children: s }),
				/* @__PURE__ */ I("span", {
					class: "after",
					children: ws(e, t + 1, a)
				}),
				a < r && " …"
			]
		}),
		/* @__PURE__ */ I("p", {
			class: "fine",
			children: "The words before it count only as far as attention has already mixed them into those numbers. The pale ones come after it."
		}),
		/* @__PURE__ */ I(Cs, {
			trace: e,
			token: t
		})
	] });
}
function Cs({ trace: e, token: t }) {
	return /* @__PURE__ */ I("dl", {
		class: "details",
		children: [
			["token id", e.ofToken("token_ids", t)],
			["position", e.ofToken("position", t)],
			["phase", xs[e.ofToken("phase", t) ?? -1] ?? null],
			["forward pass", e.ofToken("forward_id", t)]
		].filter(([, e]) => e !== null).map(([e, t]) => /* @__PURE__ */ I("div", { children: [/* @__PURE__ */ I("dt", { children: e }), /* @__PURE__ */ I("dd", { children: t })] }, e))
	});
}
function ws(e, t, n) {
	let r = "";
	for (let i = t; i < n; i++) {
		let t = e.text(i), n = t !== null && /^[ \n]+$/.test(t);
		r += n ? t : W(t, e.ofToken("token_ids", i));
	}
	return r;
}
// src/walk/facts.ts
function Ts(e, t, n) {
	let r = e.layer(t), i = e.choices(t, n), a = i.filter((e) => !e.isDropped && e.expert < r.num_experts), o = e.scores(t, n), s = new Set(i.map((e) => e.expert)), c = o?.find((e) => !s.has(e.expert) && e.ranked > -Infinity) ?? null, l = e.ofLayer("select_margin", t, n), u = e.pass(t, n), d = u.tokensOf.slice(0, r.num_experts).map((e) => e.length), f = i.every((e) => e.weight !== null);
	return {
		layer: t,
		token: n,
		numExperts: e.numExperts(t),
		choices: i,
		ran: a,
		scores: o,
		firstOut: c,
		margin: l,
		surerFraction: l === null ? null : Es(e, t, l),
		skippedFraction: 1 - a.length / r.num_experts,
		pass: u,
		rows: d,
		evenRows: gt(d) / d.length,
		slowest: d.indexOf(Math.max(...d)),
		weightSum: f && i.length ? gt(i, (e) => e.weight ?? 0) : null,
		sharedNorm: e.ofLayer("shared_norms", t, n),
		outputNorm: e.ofLayer("output_norms", t, n),
		sumError: e.ofLayer("sum_error", t, n)
	};
}
function Es(e, t, n) {
	let r = 0, i = 0;
	for (let a = 0; a < e.numTokens; a++) {
		let o = e.ofLayer("select_margin", t, a);
		o !== null && (i++, o > n && r++);
	}
	return r / i;
}
// src/walk/windows.ts
var Ds = .3;
function Os(e, t) {
	let n = t === 1 ? ks(e) : t === 4 ? As(e) : null, r = t === 5 ? js(e) : null, i = new Map(e.choices.map((e) => [e.expert, e])), a = new Set(e.ran.map((e) => e.expert));
	return Array.from({ length: e.numExperts }, (e, o) => {
		let s = i.get(o), c = t > 1 && s !== void 0;
		return t === 0 ? {
			state: "waiting",
			light: 0,
			isChosen: c
		} : n ? {
			state: "glow",
			light: n(o),
			isChosen: c
		} : s ? t === 2 ? {
			state: "lit",
			light: 1,
			isChosen: c
		} : s.isDropped ? {
			state: "dropped",
			light: 0,
			isChosen: c
		} : {
			state: "lit",
			light: r?.(o) ?? (a.has(o) ? 1 : Ds),
			isChosen: c
		} : {
			state: t === 2 ? "masked" : "idle",
			light: 0,
			isChosen: c
		};
	});
}
function ks({ scores: e, choices: t }) {
	if (!e) return (e) => +!!t.some((t) => t.expert === e);
	let n = Math.max(...e.map((e) => e.raw)) || 1, r = new Map(e.map((e) => [e.expert, Math.max(0, e.raw / n)]));
	return (e) => r.get(e) ?? 0;
}
function As({ rows: e }) {
	let t = Math.max(1, ...e);
	return (n) => (e[n] ?? 0) / t;
}
function js({ choices: e }) {
	let t = new Map(e.map(({ expert: e, weight: t }) => [e, Math.abs(t ?? 1)])), n = Math.max(1e-9, ...t.values());
	return (e) => Ds + .7 * (t.get(e) ?? 0) / n;
}
function Ms(e, t) {
	let { numExperts: n, choices: r, ran: i } = e;
	switch (t) {
		case 0: return `${n} experts, waiting.`;
		case 1: return e.scores ? "Brighter: a higher score." : "Lit: the chosen ones. The other scores are not on the page.";
		case 2: return `${r.length} picked, ${n - r.length} masked.`;
		case 3: return `${i.length} lit for this token, ${n - i.length} dark.`;
		case 4: return "Brighter: more rows in this pass. Framed: this token’s experts.";
		default: return "Brighter: more weight in the sum.";
	}
}
function Ns(e) {
	return e <= 16 ? Math.min(4, e) : e <= 64 ? 8 : e <= 256 ? 16 : 24;
}
// src/walk/House.tsx
var Ps = 64, Fs = .55;
function Is({ facts: e, step: t }) {
	let n = Os(e, t), r = Ns(n.length), i = Ms(e, t);
	return /* @__PURE__ */ I("figure", {
		class: "house",
		children: [/* @__PURE__ */ I("div", {
			class: "windows",
			role: "img",
			"aria-label": i,
			style: {
				gridTemplateColumns: `repeat(${r}, 1fr)`,
				fontSize: `${r <= 4 ? 16 : r <= 8 ? 12 : 10}px`
			},
			children: n.map(({ state: e, light: t, isChosen: r }, i) => /* @__PURE__ */ I("span", {
				"data-expert": i,
				"data-state": e,
				"data-chosen": r || void 0,
				"data-bright": t > Fs || void 0,
				title: `expert ${i}`,
				style: { "--light": t.toFixed(3) },
				children: n.length <= Ps || r ? i : ""
			}, i))
		}), /* @__PURE__ */ I("figcaption", { children: i })]
	});
}
// src/walk/Parallel.tsx
var Ls = 104, Rs = 100, zs = 16, Bs = 14;
function Vs({ trace: e, facts: t }) {
	let [n, r] = Pa();
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I("div", {
			ref: n,
			class: "chart",
			children: [/* @__PURE__ */ I(Hs, {
				facts: t,
				width: r
			}), /* @__PURE__ */ I("p", {
				class: "fine",
				children: "Rows of each expert, by number. Dashed: an even share. Coloured: this token’s experts."
			})]
		}),
		/* @__PURE__ */ I("dl", {
			class: "together",
			children: t.ran.map(({ expert: n }) => /* @__PURE__ */ I(Us, {
				trace: e,
				facts: t,
				expert: n
			}, n))
		}),
		t.pass.id === null && /* @__PURE__ */ I("p", {
			class: "fine",
			children: "This trace does not tell forward passes apart: these are the tokens of the sequence."
		}),
		e.facts.cut && /* @__PURE__ */ I("p", {
			class: "fine",
			children: "Only tokens on this page are counted here."
		})
	] });
}
function Hs({ facts: e, width: t }) {
	let { rows: n, evenRows: r, slowest: i } = e, a = X().domain([0, L(n) || 1]).range([Rs, zs]), o = t / n.length, s = new Set(e.ran.map((e) => e.expert)), c = i > n.length / 2;
	return /* @__PURE__ */ I("svg", {
		width: t,
		height: Ls,
		viewBox: `0 0 ${t} ${Ls}`,
		role: "img",
		"aria-label": "Rows of each expert in this pass",
		children: [
			n.map((e, t) => /* @__PURE__ */ I("rect", {
				class: s.has(t) ? "bar in" : "bar out",
				x: t * o,
				y: a(e),
				width: Math.max(.8, o - (o > 4 ? 2 : .4)),
				height: Rs - a(e)
			}, t)),
			/* @__PURE__ */ I("line", {
				class: "axis",
				x1: 0,
				x2: t,
				y1: 100.5,
				y2: 100.5
			}),
			/* @__PURE__ */ I("line", {
				class: "even",
				x1: 0,
				x2: t,
				y1: a(r),
				y2: a(r)
			}),
			/* @__PURE__ */ I("text", {
				x: c ? (i + 1) * o : i * o,
				y: 10,
				"text-anchor": c ? "end" : "start",
				children: [
					"expert ",
					i,
					": ",
					z(n[i] ?? 0),
					" rows"
				]
			})
		]
	});
}
function Us({ trace: e, facts: t, expert: n }) {
	let r = (t.pass.tokensOf[n] ?? []).filter((e) => e !== t.token), i = r.length - Bs;
	return /* @__PURE__ */ I("div", { children: [/* @__PURE__ */ I("dt", { children: [
		"expert ",
		n,
		", ",
		z(r.length + 1),
		" rows"
	] }), /* @__PURE__ */ I("dd", { children: [
		r.length === 0 && "for this token alone",
		Ws(r, t.token).map((t) => /* @__PURE__ */ I("span", {
			class: "chip plain",
			children: /* @__PURE__ */ I("bdi", { children: W(e.text(t), e.ofToken("token_ids", t)) })
		}, t)),
		i > 0 && /* @__PURE__ */ I("span", {
			class: "fine",
			children: [
				" and ",
				z(i),
				" more"
			]
		})
	] })] });
}
function Ws(e, t) {
	return [...e].sort((e, n) => Math.abs(e - t) - Math.abs(n - t)).slice(0, Bs).sort((e, t) => e - t);
}
// src/walk/Pick.tsx
function Gs({ facts: e }) {
	let t = us(e), n = ds(e);
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I("ol", {
			class: "picks",
			children: e.choices.map(({ expert: e, weight: t, isDropped: n }) => /* @__PURE__ */ I("li", {
				class: n ? "dropped" : void 0,
				children: [
					"expert ",
					/* @__PURE__ */ I("b", { children: e }),
					" ",
					t !== null && /* @__PURE__ */ I("span", { children: ["weight ", H(t)] }),
					" ",
					n && /* @__PURE__ */ I("span", { children: "dropped" })
				]
			}, e))
		}),
		t && /* @__PURE__ */ I("p", { children: t }),
		n && /* @__PURE__ */ I("p", { children: n })
	] });
}
// src/walk/Run.tsx
function Ks({ trace: e, facts: t }) {
	let n = e.layer(t.layer), r = n.num_experts - t.ran.length, i = ds(t), a = t.choices.filter((e) => e.expert >= n.num_experts).length;
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I("p", {
			class: "big",
			children: [/* @__PURE__ */ I("b", { children: V(t.skippedFraction) }), " skipped"]
		}),
		/* @__PURE__ */ I("div", {
			class: "share",
			role: "img",
			"aria-label": `${t.ran.length} of ${n.num_experts} experts run`,
			children: /* @__PURE__ */ I("i", { style: { width: `${100 * t.ran.length / n.num_experts}%` } })
		}),
		/* @__PURE__ */ I("p", { children: [
			"Each expert is a small network with parameters of its own. The ",
			z(r),
			" idle ones are not asked, not outvoted and not averaged in: their parameters are not even read for this token."
		] }),
		n.num_shared > 0 && /* @__PURE__ */ I("p", { children: [
			"Besides, ",
			U(n.num_shared, "shared expert runs", "shared experts run"),
			" for every token."
		] }),
		a > 0 && /* @__PURE__ */ I("p", { children: [U(a, "choice is an expert", "choices are experts"), " without computation."] }),
		i && /* @__PURE__ */ I("p", { children: i })
	] });
}
// src/walk/ScoreChart.tsx
var qs = 150, Js = 26, Ys = 146;
function Xs({ scores: e, numPicked: t, isBiased: n, width: r }) {
	let i = r / e.length, [a = 0, o = 1] = $e(e.flatMap(({ raw: e, ranked: t }) => Number.isFinite(t) ? [e, t] : [e])), s = X().domain([Math.min(0, a), Math.max(o, 1e-9)]).range([Ys, Js]), c = Math.max(.8, i - (i > 4 ? 2 : .4)), l = t * i, u = l > r / 2;
	return /* @__PURE__ */ I("svg", {
		width: r,
		height: qs,
		viewBox: `0 0 ${r} ${qs}`,
		role: "img",
		"aria-label": "Scores of all experts, sorted",
		children: [
			e.map(({ expert: e, raw: r, ranked: a }, o) => /* @__PURE__ */ I("g", { children: [/* @__PURE__ */ I("rect", {
				class: o < t ? "bar in" : Number.isFinite(a) ? "bar out" : "bar masked",
				x: o * i,
				y: Math.min(s(r), s(0)),
				width: c,
				height: Math.max(.5, Math.abs(s(0) - s(r)))
			}), n && Number.isFinite(a) && /* @__PURE__ */ I("rect", {
				class: "tick",
				x: o * i,
				y: s(a) - 1,
				width: c,
				height: 2
			})] }, e)),
			/* @__PURE__ */ I("line", {
				class: "axis",
				x1: 0,
				x2: r,
				y1: s(0),
				y2: s(0)
			}),
			/* @__PURE__ */ I("line", {
				class: "mark",
				x1: l - .5,
				x2: l - .5,
				y1: 6,
				y2: 152
			}),
			/* @__PURE__ */ I("text", {
				x: u ? l - 6 : l + 6,
				y: 14,
				"text-anchor": u ? "end" : "start",
				children: u ? `the best ${t} | out` : `the best ${t} are left of this line`
			})
		]
	});
}
// src/walk/Scores.tsx
var Zs = 2;
function Qs({ trace: e, facts: t }) {
	let [n, r] = Pa(), i = e.layer(t.layer), { scores: a, choices: o } = t;
	return /* @__PURE__ */ I(b, { children: [
		/* @__PURE__ */ I("div", {
			ref: n,
			class: "chart",
			children: a && /* @__PURE__ */ I(b, { children: [/* @__PURE__ */ I(Xs, {
				scores: a,
				numPicked: o.length,
				isBiased: i.selects_on_bias,
				width: r
			}), /* @__PURE__ */ I("p", {
				class: "fine",
				children: ["All experts, best first.", i.selects_on_bias && " Bars: the score. Ticks: score and bias, which decide."]
			})] })
		}),
		a ? /* @__PURE__ */ I($s, {
			scores: a.slice(0, o.length + Zs),
			facts: t,
			isBiased: i.selects_on_bias
		}) : /* @__PURE__ */ I(ec, { facts: t }),
		i.formula && /* @__PURE__ */ I("p", {
			class: "formula",
			children: i.formula
		})
	] });
}
function $s({ scores: e, facts: t, isBiased: n }) {
	let r = new Set(t.choices.map((e) => e.expert));
	return /* @__PURE__ */ I("table", {
		class: "scores",
		children: [/* @__PURE__ */ I("thead", { children: /* @__PURE__ */ I("tr", { children: [
			/* @__PURE__ */ I("th", {
				scope: "col",
				children: "rank"
			}),
			/* @__PURE__ */ I("th", {
				scope: "col",
				children: "expert"
			}),
			/* @__PURE__ */ I("th", {
				scope: "col",
				children: "score"
			}),
			n && /* @__PURE__ */ I("th", {
				scope: "col",
				children: "with bias"
			})
		] }) }), /* @__PURE__ */ I("tbody", { children: e.map((e, t) => /* @__PURE__ */ I("tr", {
			class: r.has(e.expert) ? "in" : "out",
			children: [
				/* @__PURE__ */ I("td", { children: t + 1 }),
				/* @__PURE__ */ I("td", { children: e.expert }),
				/* @__PURE__ */ I("td", { children: H(e.raw) }),
				n && /* @__PURE__ */ I("td", { children: H(e.ranked) })
			]
		}, e.expert)) })]
	});
}
function ec({ facts: e }) {
	return /* @__PURE__ */ I("p", { children: [
		"The scores of this token are not on the page: here are its choices.",
		" ",
		e.choices.map((e) => e.expert).join(", "),
		". Traces that are recorded with logits show all."
	] });
}
// src/walk/WalkStep.tsx
var tc = [
	Ss,
	Qs,
	Gs,
	Ks,
	Vs,
	_s
];
function nc({ trace: e, layer: t, token: n, step: r, isAnnounced: i }) {
	let a = F(() => Ts(e, t, n), [
		e,
		t,
		n
	]), o = tc[r] ?? Ss, s = en(e.text(n), e.ofToken("token_ids", n));
	return /* @__PURE__ */ I("div", {
		class: "step",
		"data-step": r,
		children: [/* @__PURE__ */ I("div", {
			class: "step-words",
			children: [/* @__PURE__ */ I("p", {
				class: "sentence",
				"aria-live": i ? "polite" : "off",
				children: ss(r, a, e.layer(t), s)
			}), /* @__PURE__ */ I(o, {
				trace: e,
				facts: a
			})]
		}), /* @__PURE__ */ I(Is, {
			facts: a,
			step: r
		})]
	});
}
// src/walk/Walk.tsx
function rc({ traces: e, comparison: t, selection: n, select: r }) {
	let { step: i } = n, a = wi("print"), o = a ? os.map((e, t) => t) : [i], s = (e) => r({ step: Math.max(0, Math.min(os.length - 1, e)) });
	return /* @__PURE__ */ I("section", {
		id: "walk",
		"aria-labelledby": "walk-title",
		tabIndex: -1,
		onKeyDown: (e) => {
			let t = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
			t === 0 || ic(e.target) || (e.preventDefault(), s(i + t));
		},
		children: [
			/* @__PURE__ */ I("h2", {
				id: "walk-title",
				children: "One token, one layer, six steps"
			}),
			/* @__PURE__ */ I(ac, {
				traces: e,
				comparison: t,
				selection: n,
				select: r
			}),
			/* @__PURE__ */ I("nav", {
				"aria-label": "Steps",
				children: /* @__PURE__ */ I("ol", {
					class: "steps",
					children: os.map((e, t) => /* @__PURE__ */ I("li", { children: /* @__PURE__ */ I("button", {
						type: "button",
						"aria-current": t === i ? "step" : void 0,
						onClick: () => s(t),
						children: [
							/* @__PURE__ */ I("b", { children: t + 1 }),
							" ",
							e
						]
					}) }, e))
				})
			}),
			o.map((t) => /* @__PURE__ */ I(co, {
				traces: e,
				view: (e, r) => {
					let i = n.tokens[r] ?? null;
					return i === null ? /* @__PURE__ */ I("p", {
						class: "fine",
						children: "This token has no counterpart in this trace."
					}) : /* @__PURE__ */ I(nc, {
						trace: e,
						layer: n.layer,
						token: i,
						step: t,
						isAnnounced: r === 0
					});
				}
			}, a ? t : "step")),
			/* @__PURE__ */ I("div", {
				class: "turn",
				children: [
					/* @__PURE__ */ I("button", {
						type: "button",
						onClick: () => s(i - 1),
						disabled: i === 0,
						children: "← back"
					}),
					/* @__PURE__ */ I("span", { children: [
						"step ",
						i + 1,
						" of ",
						os.length
					] }),
					/* @__PURE__ */ I("button", {
						type: "button",
						onClick: () => s(i + 1),
						disabled: i === os.length - 1,
						children: "next →"
					})
				]
			})
		]
	});
}
function ic(e) {
	return e instanceof HTMLInputElement || e instanceof HTMLSelectElement;
}
function ac({ traces: e, comparison: t, selection: n, select: r }) {
	let i = +(n.tokens[0] == null), a = e[i], o = n.tokens[i] ?? 0, s = (e) => r({ tokens: t?.tokens(i, e) ?? [e] }), c = oc(a.scoredTokens(), o);
	return /* @__PURE__ */ I("div", {
		class: "controls",
		children: [
			/* @__PURE__ */ I("span", {
				class: "picked",
				children: [
					"token ",
					o,
					" ",
					/* @__PURE__ */ I("b", { children: en(a.text(o), a.ofToken("token_ids", o)) })
				]
			}),
			/* @__PURE__ */ I("span", {
				class: "pager",
				children: [/* @__PURE__ */ I("button", {
					type: "button",
					"aria-label": "Previous token",
					disabled: o === 0,
					onClick: () => s(o - 1),
					children: "‹"
				}), /* @__PURE__ */ I("button", {
					type: "button",
					"aria-label": "Next token",
					disabled: o === a.numTokens - 1,
					onClick: () => s(o + 1),
					children: "›"
				})]
			}),
			/* @__PURE__ */ I(yo, {
				trace: a,
				selection: n,
				select: r
			}),
			c !== null && c !== o && /* @__PURE__ */ I("button", {
				type: "button",
				onClick: () => s(c),
				children: "nearest token with all scores"
			})
		]
	});
}
function oc(e, t) {
	let n = null;
	for (let r of Array.from(e)) (n === null || Math.abs(r - t) < Math.abs(n - t)) && (n = r);
	return n;
}
// src/app.tsx
function sc({ payload: e }) {
	let t = F(() => e.traces.map(({ facts: e, arrays: t }) => new fn(e, t)), [e]), n = F(() => e.comparison ? new dn(e.comparison) : null, [e]), [r, i] = P(() => dc(t, n)), [a, o] = P("auto"), s = Ae((e) => i((t) => ({
		...t,
		...e
	})), []), c = Ti(a), l = {
		selection: r,
		select: s,
		comparison: n
	}, u = t.every((e) => e.numTokens > 0), d = t.some(({ facts: e }) => e.size || e.speed), f = t.some(({ arrays: e }) => e.top_tokens || e.partners || e.load_bins), p = (e) => /* @__PURE__ */ I(co, {
		traces: t,
		view: e
	});
	return /* @__PURE__ */ I(Ei.Provider, {
		value: c,
		children: /* @__PURE__ */ I("div", {
			class: "page",
			"data-theme": a,
			children: [
				/* @__PURE__ */ I(Ma, {
					title: e.title,
					traces: t,
					theme: a,
					setTheme: o,
					has: {
						text: u,
						walk: u,
						experts: f,
						size: d
					}
				}),
				/* @__PURE__ */ I("main", { children: [
					/* @__PURE__ */ I(fc, {
						id: "verdict",
						title: "Verdict",
						children: [p((e) => /* @__PURE__ */ I($o, { trace: e })), n && /* @__PURE__ */ I(rn, {
							traces: t,
							...l,
							comparison: n
						})]
					}),
					/* @__PURE__ */ I(fc, {
						id: "map",
						title: "The whole: every layer, every expert",
						lead: cc,
						children: p((e) => /* @__PURE__ */ I(b, { children: [/* @__PURE__ */ I($a, {
							trace: e,
							...l
						}), /* @__PURE__ */ I(oo, {
							trace: e,
							traces: t,
							layer: r.layer
						})] }))
					}),
					u && /* @__PURE__ */ I(b, { children: [/* @__PURE__ */ I(fc, {
						id: "text",
						title: "The text, token by token",
						lead: lc,
						children: [/* @__PURE__ */ I(Oo, {
							traces: t,
							...l
						}), p((e, t) => /* @__PURE__ */ I(Go, {
							trace: e,
							side: t,
							...l
						}))]
					}), /* @__PURE__ */ I(rc, {
						traces: t,
						...l
					})] }),
					f && /* @__PURE__ */ I(fc, {
						id: "experts",
						title: "The experts of a layer",
						lead: uc,
						children: [/* @__PURE__ */ I("div", {
							class: "controls",
							children: /* @__PURE__ */ I(yo, {
								trace: t[0],
								...l
							})
						}), p((e) => /* @__PURE__ */ I(ka, {
							trace: e,
							...l
						}))]
					}),
					d && /* @__PURE__ */ I(fc, {
						id: "size",
						title: "Size: what is there, and what runs",
						children: p(({ facts: e }) => /* @__PURE__ */ I(b, { children: [e.size && /* @__PURE__ */ I(lo, { size: e.size }), e.speed && /* @__PURE__ */ I(mo, { speed: e.speed })] }))
					}),
					/* @__PURE__ */ I(fc, {
						id: "limits",
						title: "What this does not show",
						children: /* @__PURE__ */ I(Ue, { traces: t })
					})
				] }),
				/* @__PURE__ */ I("footer", { children: p((e) => /* @__PURE__ */ I(We, { trace: e })) })
			]
		})
	});
}
var cc = "Each cell is one expert of one layer, coloured by how much work it got. A balanced layer is one pale band.", lc = "Choose a token here, by pointer or arrow keys, and the walk below follows it through a layer. Enter leads there.", uc = "An expert is named by nothing but its number. What it takes most says more about it than any label would.";
function dc(e, t) {
	let n = t?.mostChanged[0], r = n === void 0 ? _o(e[0]) : t?.tokenOf(n, 0) ?? 0, i = Math.floor((e[0]?.layers.length ?? 1) / 2);
	return {
		layer: i,
		tokens: t?.tokens(0, r) ?? [r],
		expert: Math.max(0, e[0]?.expertAt(i, r, 0) ?? 0),
		step: 0,
		quantity: t ? "overlap" : "first"
	};
}
function fc({ id: e, title: t, lead: n, children: r }) {
	return /* @__PURE__ */ I("section", {
		id: e,
		"aria-labelledby": `${e}-title`,
		children: [
			/* @__PURE__ */ I("h2", {
				id: `${e}-title`,
				children: t
			}),
			n && /* @__PURE__ */ I("p", {
				class: "lead",
				children: n
			}),
			r
		]
	});
}
// src/data/payload.ts
var pc = /* @__PURE__ */ "topk_ids.topk_weights.select_margin.router_entropy.dropped.token_text.token_ids.position.phase.forward_id.seq_offsets.counts.scored_tokens.router_logits.router_scores.select_scores.select_bias.contribution_norms.shared_norms.output_norms.sum_error.pass_ids.pass_ratio.top_tokens.top_token_counts.top_token_lift.specialisation.specialisation_baseline.partners.partner_lift.load_bins".split("."), mc = 1;
async function hc(e) {
	let t = new Blob([e]).stream().pipeThrough(new DecompressionStream("deflate"));
	return new Response(t).arrayBuffer();
}
function gc(e) {
	let t = new DataView(e).getUint32(0, !0), n = JSON.parse(new TextDecoder().decode(new Uint8Array(e, 4, t)));
	if (n.page !== mc) throw Error(`page (=${n.page}) must be ${mc}; write the page again with one version of Headgate`);
	let r = (t) => vc(e, t), i = n.comparison;
	return {
		title: n.title,
		traces: n.traces.map((t) => ({
			facts: t,
			arrays: _c(e, t.arrays)
		})),
		comparison: i ? {
			facts: i,
			pairs: r(i.pairs),
			overlap: r(i.overlap),
			most_changed: r(i.most_changed)
		} : null
	};
}
function _c(e, t) {
	let n = {};
	for (let r of pc) {
		let i = t[r];
		i && (n[r] = vc(e, i));
	}
	return n;
}
function vc(e, { dtype: t, shape: n, offset: r }) {
	let i = n.reduce((e, t) => e * t, 1);
	switch (t) {
		case "u8": return {
			data: new Uint8Array(e, r, i),
			shape: n
		};
		case "u16": return {
			data: new Uint16Array(e, r, i),
			shape: n
		};
		case "u32": return {
			data: new Uint32Array(e, r, i),
			shape: n
		};
		case "i32": return {
			data: new Int32Array(e, r, i),
			shape: n
		};
		case "f16": return {
			data: bc(new Uint16Array(e, r, i)),
			shape: n
		};
		case "f32": return {
			data: new Float32Array(e, r, i),
			shape: n
		};
		case "f64": return {
			data: new Float64Array(e, r, i),
			shape: n
		};
		default: throw Error(`dtype (=${t}) is unknown; write the page again with one version of Headgate`);
	}
}
var yc;
function bc(e) {
	yc ??= Float32Array.from({ length: 65536 }, (e, t) => xc(t));
	let t = yc, n = new Float32Array(e.length);
	for (let r = 0; r < e.length; r++) n[r] = t[e[r]];
	return n;
}
function xc(e) {
	let t = e & 32768 ? -1 : 1, n = e >> 10 & 31, r = e & 1023;
	return n === 31 ? r ? NaN : t * Infinity : n === 0 ? t * r * 2 ** -24 : t * (1 + r / 1024) * 2 ** (n - 15);
}
// src/styles/page.css?inline
var Sc = ":root,:host{--ink:light-dark(#1c1e22,#ebe8e1);--muted:light-dark(#5a5f69,#a3a7af);--rule:light-dark(#dcd8cf,#33373e);--paper:light-dark(#fbfaf7,#15171b);--raised:light-dark(#f2efe8,#1e2126);--accent:light-dark(#a8420a,#ffa24d);--tint:light-dark(#f0a15c,#b5651f);--night:#14171d;--lit:#ffb02e;--serif:\"Iowan Old Style\", \"Palatino Linotype\", Palatino, \"Book Antiqua\", Georgia, \"DejaVu Serif\", serif;--sans:system-ui, -apple-system, \"Segoe UI\", Roboto, \"Helvetica Neue\", \"DejaVu Sans\", sans-serif;--mono:ui-monospace, Menlo, Consolas, \"DejaVu Sans Mono\", monospace;color-scheme:light dark}body{background:var(--paper);margin:0}.page{color:var(--ink);background:var(--paper);font:15px / 1.5 var(--sans);font-variant-numeric:tabular-nums;overflow-wrap:break-word;-moz-text-size-adjust:100%;text-size-adjust:100%;max-width:1180px;margin:0 auto;padding:0 32px 64px}.page[data-theme=light]{color-scheme:light}.page[data-theme=dark]{color-scheme:dark}body:has(.page[data-theme=light]){color-scheme:light}body:has(.page[data-theme=dark]){color-scheme:dark}*,:before,:after{box-sizing:border-box}h1,h2,h3,.sentence,.verdict-sentence{font-family:var(--serif);text-wrap:balance;font-weight:600;line-height:1.2}h1{letter-spacing:-.01em;margin:40px 0 12px;font-size:38px}h2{margin:0 0 6px;font-size:26px}h3{margin:0 0 8px;font-size:18px}p{max-width:68ch;margin:0 0 12px}main>section{border-top:1px solid var(--rule);margin-top:56px;padding-top:22px;scroll-margin-top:44px}main>section:focus{outline:none}:focus-visible{outline:2px solid var(--accent);outline-offset:2px}.lead,.note{color:var(--muted);margin-bottom:20px}.note{margin-bottom:4px}.fine{color:var(--muted);font-size:13px}.reading{max-width:50ch;margin:20vh auto;padding:0 24px;font:15px/1.5 system-ui,sans-serif}dl,dd,ol,ul,figure{margin:0;padding:0}ol,ul{list-style:none}table{border-collapse:collapse;text-align:left;font-size:13px}th,td{border-bottom:1px solid var(--rule);vertical-align:top;padding:5px 14px 5px 0}thead th{color:var(--muted);font-weight:500}tbody th{font-weight:600}caption{text-align:left;padding-bottom:8px}svg{display:block;overflow:visible}svg text{fill:var(--muted);font:11px var(--sans)}.axis{stroke:var(--muted)}.mark{stroke:var(--accent);stroke-width:1.5px}.curves{grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:28px;display:grid}.curve figcaption{color:var(--muted);font-size:13px}.curve .grid{stroke:var(--rule)}.curve .axis{stroke-dasharray:3 3}.curve .dot{fill:var(--accent)}.scroll{max-height:430px;overflow:auto}.scroll thead th{background:var(--paper);position:sticky;top:0}footer{border-top:1px solid var(--rule);margin-top:56px;padding-top:22px}.top{background:var(--paper);border-bottom:1px solid var(--rule);z-index:2;justify-content:space-between;align-items:center;gap:8px 24px;padding:9px 0;display:flex;position:sticky;top:0}header{display:contents}nav a{color:var(--muted);margin-right:18px;font-size:13px;text-decoration:none;display:inline-block}nav a:hover{color:var(--accent)}label,.picked{color:var(--muted);white-space:nowrap;font-size:13px}.picked b{color:var(--ink);font-family:var(--mono);white-space:pre}.controls{flex-wrap:wrap;align-items:center;gap:8px 20px;min-height:30px;margin:0 0 14px;display:flex}button,select,input{background:var(--paper);border:1px solid var(--muted);color:var(--ink);font:13px / 1.4 var(--sans);border-radius:4px;padding:3px 9px}input[type=search]{width:15em}input[type=number]{width:5em}input[type=checkbox]{accent-color:var(--accent);vertical-align:-1px;margin:0}button{cursor:pointer}button:hover:not(:disabled){border-color:var(--accent);color:var(--accent)}button:disabled{border-color:var(--rule);color:var(--muted);cursor:default}.theme{align-items:center;gap:8px;display:flex}.pager{gap:4px;display:flex}.legend{color:var(--muted);flex-wrap:wrap;gap:4px 12px;font-size:12px;display:flex}.legend i{vertical-align:-1px;border-radius:2px;width:18px;height:12px;margin-right:5px;display:inline-block}.legend-text{color:var(--muted);margin:0;font-size:12px}.ramp{background:linear-gradient(to right, transparent, var(--tint));border:1px solid var(--rule);vertical-align:-2px;width:90px;height:12px;display:inline-block}.sides{grid-template-columns:1fr 1fr;gap:32px 40px;display:grid}.side{min-width:0}.side-name{color:var(--muted);font-size:13px}.side-name b{border:1px solid var(--muted);color:var(--ink);border-radius:3px;margin-right:4px;padding:0 6px}.verdict-sentence{text-wrap:pretty;max-width:46ch;font-size:23px;font-weight:400;line-height:1.35}.status{white-space:nowrap}.status[data-status=imbalanced],.status[data-status=collapsed]{color:var(--accent)}.figures{flex-wrap:wrap;gap:18px 44px;margin:26px 0;display:flex}.figures div{flex-direction:column-reverse;display:flex}.figures dd{font:600 26px / 1.2 var(--serif)}.figures dt{color:var(--muted);font-size:13px}summary{color:var(--muted);cursor:pointer;margin-bottom:8px;font-size:13px}.layers{min-width:880px}.layers .words{color:var(--muted);min-width:26em}.canvas-frame{cursor:crosshair;position:relative}.canvas-frame canvas{pointer-events:none;display:block}.cell-mark{border:2px solid var(--ink);outline:1px solid var(--paper);pointer-events:none;position:absolute}.readout{margin:8px 0 0;font-size:13px}.passes{margin-top:30px}.passes figcaption{max-width:68ch;margin-bottom:10px;font-size:14px}.column{fill:var(--muted)}.search{flex-wrap:wrap;align-items:center;gap:8px;margin-bottom:10px;font-size:13px;display:flex}.text-frame{border:1px solid var(--rule);border-radius:4px;padding:0 8px;position:relative;overflow-y:auto}.lines{contain:strict;position:relative}.line{gap:2px;height:28px;padding:2px 0;display:flex;position:absolute;left:0}.chip{background:color-mix(in oklab, var(--tint) calc(var(--amount,0) * 62%), transparent);cursor:pointer;font:13px / 24px var(--mono);white-space:pre;border-radius:3px;height:24px;padding:0 4px;overflow:hidden}.chip sub{color:var(--ink);font:10px / 1 var(--mono);letter-spacing:-.02em;vertical-align:-3px;margin-left:2px}.chip[data-hue=\"0\"]{background:light-dark(#cfe0f3,#23405f)}.chip[data-hue=\"1\"]{background:light-dark(#fbdcb9,#5f3d17)}.chip[data-hue=\"2\"]{background:light-dark(#cdeadd,#1c4a3b)}.chip[data-hue=\"3\"]{background:light-dark(#f3cfe0,#5a2844)}.chip[data-hue=\"4\"]{background:light-dark(#e6e2b4,#4a4714)}.chip[data-hue=\"5\"]{background:light-dark(#d9d3f2,#3c3566)}.chip[data-hue=\"6\"]{background:light-dark(#f6d0c7,#61302a)}.chip[data-hue=\"7\"]{background:light-dark(#dfdfdf,#3f4349)}.chip:hover{box-shadow:inset 0 0 0 1px var(--muted)}.chip.blank{color:var(--muted)}.chip.found{box-shadow:inset 0 -3px 0 var(--accent)}.chip[aria-selected=true]{box-shadow:inset 0 0 0 2px var(--ink)}.chip.plain{background:var(--raised);cursor:inherit;vertical-align:bottom;margin:1px 3px 1px 0;display:inline-block}.experts td{white-space:nowrap}.experts td.tokens{white-space:normal;min-width:22em}.experts tr.selected{background:var(--raised)}.experts table+button,.experts .scroll+button{margin-top:12px}.partner{margin-right:12px;display:inline-block}.partner sub{color:var(--muted);margin-left:3px;font-size:11px}.sparkline path,.sparkline rect{fill:var(--muted)}.comparison{margin-top:32px}.comparison-parts{grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:32px 40px;display:grid}.changed button{border-color:#0000;grid-template-columns:9em 6em 120px auto;place-items:center start;gap:12px;width:100%;padding:2px 4px;display:grid}.changed button[aria-pressed=true]{border-color:var(--ink)}.changed .chip{max-width:100%}.size figure{margin:24px 0 32px}.parts{gap:2px;height:56px;margin-bottom:10px;display:flex}.parts i{min-width:2px}[data-kind=idle]{background:#262b34}[data-kind=active]{background:var(--lit)}[data-kind=shared]{background:light-dark(#c58a2b,#c98d2c)}[data-kind=other]{background:light-dark(#9aa1ad,#7b828e)}.speed{margin-top:28px}.speed .curves{margin:14px 0}.touched td{white-space:nowrap}.share{background:#262b34;max-width:420px;height:14px;margin-bottom:14px;display:block}.share i{background:var(--lit);height:100%;display:block}.touched .share{vertical-align:-2px;width:180px;margin:0 12px 0 0;display:inline-block}.limits{padding-left:18px;list-style:outside}.limits li{max-width:72ch;margin-bottom:6px}.provenance{grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:6px 32px;font-size:13px;display:grid}.provenance dt{color:var(--muted)}.provenance dd{overflow-wrap:anywhere}.steps{border-bottom:1px solid var(--rule);flex-wrap:wrap;gap:0 6px;margin-bottom:26px;display:flex}.steps button{color:var(--muted);background:0 0;border:0;border-bottom:3px solid #0000;border-radius:0;margin-bottom:-1px;padding:8px 14px 8px 0;font-size:14px}.steps button[aria-current]{border-bottom-color:var(--accent);color:var(--ink)}.step{grid-template-columns:minmax(0,1fr) minmax(0,400px);gap:24px 48px;min-height:430px;display:grid}.sides .house{max-width:340px;position:static}.sides .step{grid-template-columns:minmax(0,1fr);align-content:start}.sentence{text-wrap:pretty;max-width:44ch;margin-bottom:18px;font-size:21px;font-weight:400;line-height:1.35}.context{background:var(--raised);font:14px / 1.7 var(--mono);white-space:pre-wrap;border-radius:4px;max-height:300px;margin:0 0 12px;padding:14px 16px;overflow:auto}.context mark{background:var(--lit);color:#1c1e22;white-space:pre;border-radius:3px;padding:2px 3px}.context .after{color:var(--muted)}.details{flex-wrap:wrap;gap:4px 28px;display:flex}.details dt{color:var(--muted);font-size:13px}.house{background:var(--night);border:1px solid var(--rule);border-radius:6px;align-self:start;padding:18px;position:sticky;top:60px}.house figcaption{color:#c9ccd2;margin-top:14px;font-size:13px}.windows{gap:4px;display:grid}.windows span{--glow:color-mix(in oklab, var(--lit) calc(var(--light) * 100%), #262b34);aspect-ratio:1;color:#9aa1ad;background:#262b34;border-radius:2px;justify-content:center;align-items:center;width:100%;min-width:0;transition:background-color .35s;display:flex}.windows [data-state=waiting]{color:#d5d8dd;background:#3a414d}.windows [data-state=glow],.windows [data-state=lit]{background:var(--glow);color:#fff}.windows [data-bright]{color:#14171d}.windows [data-chosen]{font-weight:700;box-shadow:0 0 0 2px #fff}.windows [data-state=masked]{background:repeating-linear-gradient(135deg,#262b34 0 3px,#1a1e25 3px 6px)}.windows [data-state=idle]{color:#868d99;background:#1b1f26}.windows [data-state=dropped]{box-shadow:0 0 0 2px var(--lit);color:#fff;background:#1b1f26}.chart{max-width:640px;margin:0 0 14px}.bar.in,rect.in{fill:var(--accent)}.bar.out,rect.out{fill:light-dark(#aeb3bc,#565d69)}.bar.masked,rect.masked{fill:none;stroke:light-dark(#aeb3bc,#565d69);stroke-dasharray:2 2}.tick{fill:var(--ink)}.even{stroke:var(--ink);stroke-dasharray:4 4}.scores{margin-bottom:14px}.scores td,.scores th{padding:3px 26px 3px 0}.scores .in td{font-weight:600}.scores .out td{color:var(--muted)}.scores .in+.out td{border-top:2px solid var(--accent)}.formula{color:var(--muted);font:12px / 1.5 var(--mono)}.picks{flex-wrap:wrap;gap:8px;margin-bottom:18px;display:flex}.picks li{border:1px solid var(--rule);border-radius:4px;padding:5px 10px;font-size:13px}.picks b{font-size:17px}.picks span{color:var(--muted);margin-left:8px}.picks .dropped{border-style:dashed}.big{font:400 17px / 1.2 var(--serif);margin-bottom:10px}.big b{font-size:44px}.together div{grid-template-columns:10em minmax(0,1fr);gap:0 12px;margin-bottom:8px;display:grid}.together dt{padding-top:4px;font-size:13px}.weights{gap:2px;max-width:640px;height:36px;margin-bottom:16px;display:flex}.weights span{background:var(--lit);color:#14171d;flex-basis:0;justify-content:center;align-items:center;min-width:2px;font-size:12px;font-weight:600;display:flex;overflow:hidden}.turn{border-top:1px solid var(--rule);color:var(--muted);align-items:center;gap:18px;margin-top:24px;padding-top:14px;font-size:13px;display:flex}.turn button{padding:6px 18px;font-size:15px}@media (width<=820px){.page{padding:0 16px 48px}h1{margin-top:24px;font-size:28px}.sides,.comparison-parts,.step{grid-template-columns:minmax(0,1fr)}.house{position:static}nav a{margin-right:12px}.theme span{display:none}.steps button{padding-right:8px;font-size:13px}.verdict-sentence{font-size:20px}.figures{gap:14px 28px}.touched .share{width:110px;margin-bottom:4px;display:block}.changed button{grid-template-columns:7em 5em 1fr}.together div{grid-template-columns:minmax(0,1fr)}}@media (width<=520px){.top{flex-wrap:wrap}.top nav{flex:1 0 100%}main>section{scroll-margin-top:84px}}@media (prefers-reduced-motion:no-preference){:root{scroll-behavior:smooth}}@media (prefers-reduced-motion:reduce){.windows span{transition:none}}@media (forced-colors:active){.windows span,.chip,.parts i,.share i,.weights span{forced-color-adjust:none}}@media print{:root{--paper:#fff}:root,.page[data-theme]{color-scheme:light}.page{-webkit-print-color-adjust:exact;print-color-adjust:exact;max-width:none;padding:0;font-size:11px}.top,.cell-mark,.steps,.controls,.search,.turn,.pager,button:not(.steps button,.experts button,.changed button){display:none}.canvas-frame canvas,.chart svg{max-width:100%;height:auto!important}h2{break-after:avoid}.lines{contain:none}.line{position:static}.scroll{max-height:none;overflow:visible}.step{break-inside:avoid;grid-template-columns:minmax(0,1fr) 200px;min-height:0;margin-bottom:24px}.house{padding:10px;position:static}main>section{margin-top:28px}figure,tr,.line{break-inside:avoid}}";
// src/widget.tsx
function Cc({ model: e, el: t }) {
	let n = t.attachShadow({ mode: "open" }), r = document.createElement("style");
	r.textContent = Sc;
	let i = document.createElement("div");
	n.append(r, i);
	let a = async () => {
		let t = e.get("payload");
		t?.byteLength && A(/* @__PURE__ */ I(sc, { payload: gc(await hc(new Uint8Array(t.buffer, t.byteOffset, t.byteLength))) }, Date.now()), i);
	};
	return a(), e.on("change:payload", a), () => {
		e.off("change:payload", a), A(null, i);
	};
}
var wc = { render: Cc };
export { wc as default };
